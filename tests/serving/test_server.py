"""How the gateway's process treats its connections."""

from contextlib import closing
from pathlib import Path

from fastapi import FastAPI
from openai import _constants

from appliance.core.settings import Settings
from serving.server import _listen_privately, _server


def test_the_client_lets_go_of_an_idle_connection_first() -> None:
    # Otherwise a request now and then meets a connection that the gateway is just closing.
    client_s = _constants.DEFAULT_CONNECTION_LIMITS.keepalive_expiry
    assert client_s is not None
    assert _server(FastAPI(), Settings()).config.timeout_keep_alive > 2 * client_s


def test_only_its_owner_opens_the_private_socket(tmp_path: Path) -> None:
    path = tmp_path / "serving.sock"
    with closing(_listen_privately(path)):
        assert path.stat().st_mode & 0o077 == 0
