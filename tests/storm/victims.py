"""Finding processes by what they are, and killing them."""

import contextlib
import os
import signal
import time
from pathlib import Path

import psutil

from appliance.control import supervisor
from appliance.core.home import Home
from appliance.demo.house import House

PARTS = ("engine", "collectors", "serving", "control")
STEPS = {
    "curate": ("collectors", "curate"),
    "train": ("adapter_training", "train"),
    "evaluate": ("appliance.evaluation", "run"),
}
_READY_TIMEOUT_S = 60.0
_TICK_S = 0.02


class StormError(Exception):
    """The storm cannot go on, or the appliance did not."""


class Victims:
    """The processes of one appliance."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._home = Home(house.home)

    def pid(self, name: str) -> int | None:
        """The process of that name now; None where none runs."""
        state = supervisor.running(self._home)
        if state is None:
            return None
        if name == "supervisor":
            return int(state["pid"])
        if name in PARTS:
            pid = next(part["pid"] for part in state["parts"] if part["name"] == name)
            return pid if pid is not None and _alive(pid) else None
        return self._step(name)

    def kill(self, name: str, pid: int | None = None) -> int | None:
        """`kill -9`, by pid; None where it does not run (any more)."""
        pid = pid or self.pid(name)
        if pid is None:
            return None
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return None
        return pid

    def wait_until_whole(self, killed: str, pid: int) -> float:
        """Seconds until every part answers again. Who kills the supervisor says `up` again.

        Raises:
            StormError: a part does not come back.
        """
        begun = time.monotonic()
        if killed == "supervisor":
            _wait_gone(pid)
            self._house.ask("up")
        while time.monotonic() - begun < _READY_TIMEOUT_S:
            fresh = killed in STEPS or self.pid(killed) not in (None, pid)
            if fresh and all(supervisor.health(self._home, part) for part in PARTS):
                return time.monotonic() - begun
            time.sleep(_TICK_S)
        silent = [part for part in PARTS if not supervisor.health(self._home, part)]
        raise StormError(f"{', '.join(silent)} did not come back after {killed} was killed")

    def _step(self, name: str) -> int | None:
        control = self.pid("control")
        if control is None:
            return None
        wanted = STEPS[name]
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(control).children():
                with contextlib.suppress(psutil.Error):
                    words = child.cmdline()
                    if tuple(words[2:4]) == wanted and child.status() != psutil.STATUS_ZOMBIE:
                        return int(child.pid)
        return None


def _alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def _wait_gone(pid: int) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(_TICK_S)
