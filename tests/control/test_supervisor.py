"""The supervisor as a process: who is killed comes back at once, who cannot start is named soon."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from appliance.control import supervisor
from appliance.core.errors import UnavailableError
from appliance.core.home import Home
from appliance.core.settings import load_settings

_TIMEOUT_S = 60.0


@pytest.fixture
def without_a_base(home: Home) -> "Iterator[subprocess.Popen[bytes]]":
    """A supervisor whose engine and gateway cannot start, because there is no base to serve."""
    home.settings.write_text("[gateway]\nport = 0\n[control]\nport = 0\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "appliance.control", "supervise", "--home", str(home.root)],
        env={**os.environ, **supervisor.take_ports(load_settings(home))},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield process
    process.terminate()
    process.wait()


def soon(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + _TIMEOUT_S
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def pid_of(home: Home, name: str) -> int | None:
    state = supervisor.running(home)
    parts = state["parts"] if state else []
    return next((part["pid"] for part in parts if part["name"] == name), None)


def test_up_says_within_seconds_which_part_cannot_start(
    home: Home, without_a_base: "subprocess.Popen[bytes]"
) -> None:
    begun = time.monotonic()
    with pytest.raises(UnavailableError, match=r"(engine|serving) does not come up: .*base"):
        supervisor.wait_until_ready(home, without_a_base)
    assert time.monotonic() - begun < supervisor.START_TIMEOUT_S / 3


def test_a_part_that_is_killed_is_started_again_at_once(
    home: Home, without_a_base: "subprocess.Popen[bytes]"
) -> None:
    soon(lambda: supervisor.health(home, "collectors"))
    killed = pid_of(home, "collectors")
    assert killed is not None
    begun = time.monotonic()
    os.kill(killed, signal.SIGKILL)
    soon(lambda: pid_of(home, "collectors") not in (None, killed))
    # Below the first pause that a second death in a row would bring.
    assert time.monotonic() - begun < 0.5
    soon(lambda: supervisor.health(home, "collectors"))


def test_parts_die_with_their_supervisor(
    home: Home, without_a_base: "subprocess.Popen[bytes]"
) -> None:
    soon(lambda: supervisor.health(home, "collectors"))
    orphan = pid_of(home, "collectors")
    without_a_base.kill()
    # Dead, and not waited for: a zombie, as under a first process that does not reap.
    soon(lambda: supervisor.running(home) is None)
    soon(lambda: supervisor.memory_mib(orphan) is None)


def test_a_number_that_is_somebody_elses_now_is_no_supervisor(home: Home) -> None:
    supervisor.state_file(home).write_text(json.dumps({"pid": os.getpid(), "parts": []}))
    assert supervisor.running(home) is None
