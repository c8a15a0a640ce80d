"""When the trainer may run beside serving: in its time windows, and a share while people ask.

Not here: stopping it (programs.py does), and evaluation, which asks the engine in batch class and
so yields by itself.
"""

import logging
import time
from datetime import datetime
from pathlib import Path

from appliance.control.local_http import OpenSocket
from appliance.core.errors import EspalierError, UnavailableError
from appliance.core.settings import Gpu
from appliance.core.windows import parse_windows

_TURN_S = 0.1
"""How long the trainer runs at a time while people ask."""
_TICK_MAX_S = 1.0
"""A longer time between two questions counts as this."""
_QUIET_S = 1.0
"""After so long without a request of people they count as gone."""
_ASK_EVERY_S = 0.1
_ASK_AGAIN_S = 2.0
"""After the engine did not answer."""
_TIMEOUT_S = 3.0
"""A machine that is overrun is slow to answer, and it is just then that training should yield."""

log = logging.getLogger(__name__)


class Budget:
    """Says, as often as it is asked, whether the trainer may run now. A context manager."""

    def __init__(self, gpu: Gpu, engine: Path) -> None:
        """engine: the private socket of the engine that people's requests go to."""
        self._windows = parse_windows(gpu.windows)
        self._people = People(engine) if gpu.trainer_share < 1 else None
        self._turns = Turns(gpu.trainer_share)

    def __enter__(self) -> "Budget":
        return self

    def __exit__(self, *_: object) -> None:
        if self._people:
            self._people.close()

    def may_run(self) -> bool:
        """Whether it may run until this is asked again."""
        if not self._windows.open_at(datetime.now()):
            return False
        now = time.monotonic()
        return self._turns.may_run(now, people=bool(self._people and self._people.ask(now)))


def waits(gpu: Gpu) -> str:
    """The window that training waits for now, in words; empty while it may train."""
    return parse_windows(gpu.windows).waits(datetime.now())


class Turns:
    """Deals out wall time: `share` of it in turns while people ask, all of it otherwise."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._price = _TURN_S * (1 - share)
        self._at: float | None = None
        self._saved = 0.0
        self._running = True

    def may_run(self, now: float, *, people: bool) -> bool:
        """Whether it may run from `now` (a monotonic clock, seconds) on."""
        if self._share >= 1 or not people:
            self._at, self._saved, self._running = None, 0.0, True
            return True
        if self._at is not None:
            # A night outside the windows, when nobody asks this, saves nothing up for the morning.
            passed = min(now - self._at, _TICK_MAX_S)
            self._saved += passed * (self._share - self._running)
        self._at = now
        self._running = self._saved > 0 if self._running else self._saved >= self._price
        return self._running


class People:
    """Whether people's requests are under way in the engine, or ended less than a second ago.

    An engine that does not answer has nobody to wait for: training goes on, and the log says so.
    """

    def __init__(self, engine: Path) -> None:
        self._engine = OpenSocket(engine, timeout_s=_TIMEOUT_S)
        self._ask_at = 0.0
        self._there = False
        self._failing = False

    def ask(self, now: float) -> bool:
        """At `now`, or a tenth of a second before; asking more often costs the engine nothing."""
        if now < self._ask_at:
            return self._there
        try:
            quiet_s = self._quiet_s()
        except (EspalierError, ValueError) as error:
            if not self._failing:
                log.warning("training goes on without yielding to people: %s", error)
            self._failing, self._there, self._ask_at = True, False, now + _ASK_AGAIN_S
        else:
            self._failing, self._ask_at = False, now + _ASK_EVERY_S
            self._there = quiet_s is not None and quiet_s < _QUIET_S
        return self._there

    def close(self) -> None:
        """Ask no more."""
        self._engine.close()

    def _quiet_s(self) -> float | None:
        health = self._engine.get("/health")
        try:
            quiet_s = health["people_quiet_s"]
            return None if quiet_s is None else float(quiet_s)
        except (TypeError, KeyError) as error:
            raise UnavailableError("the engine does not say since when people are quiet") from error
