"""`espalier doctor` on a home that is down: what would keep it from coming up."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.control import bases
from appliance.control.doctor import Finding, examine
from appliance.core.home import Home
from appliance.engine.bases import Registry
from tests.adapter_training.conftest import base_folder  # noqa: F401 # registers the fixture


def found(home: Home) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(home)}


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    listener = socket.create_server(("127.0.0.1", 0))
    yield listener
    listener.close()


def test_a_base_that_is_not_registered(home: Home, base_folder: Path) -> None:  # noqa: F811
    home.settings.write_text("[gateway]\nport = 0\n[control]\nport = 0\n")
    finding = found(home)["base"]
    assert (finding.ok, "no base named 'tiny'" in finding.detail) == (False, True)
    assert "there is none" in finding.detail
    assert "espalier base make-tiny" in finding.mend
    Registry(home).add_directory(base_folder, "small", origin="test")
    assert "there is 'small'" in found(home)["base"].detail
    home.settings.write_text('[engine]\nbase = "small"\n')
    assert found(home)["base"].ok


@pytest.mark.parametrize("who", ["gateway", "control"])
def test_a_port_that_another_program_has(
    home: Home, taken: socket.socket, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    monkeypatch.setattr(bases.programs, "run_now", lambda *_, **__: {"bases": []})
    port = taken.getsockname()[1]
    other = {"gateway": "control", "control": "gateway"}[who]
    home.settings.write_text(f"[{who}]\nport = {port}\n[{other}]\nport = 0\n")
    finding = found(home)["ports"]
    assert not finding.ok
    assert f"port {port} on 127.0.0.1 cannot be had: Address already in use" in finding.detail
    assert f"set [{who}] port" in finding.mend
    taken.close()
    assert found(home)["ports"].ok


def test_a_home_that_is_not_there(tmp_path: Path) -> None:
    (finding,) = examine(Home(tmp_path / "hoem"))
    assert (finding.name, finding.ok) == ("home", False)
    assert "no Espalier home at" in finding.detail
    assert "espalier base make-tiny" in finding.mend
    assert not (tmp_path / "hoem").exists()
