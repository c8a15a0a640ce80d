"""What the storm prints: one line per kill, and how long the rest may take."""

import time
from collections.abc import Sequence
from statistics import fmean

from tests.storm.plan import Kill

_FIRST_GUESS_S = {"before": 4.0, "after": 35.0}
_EVERY = 4


class Voice:
    """Lines for people. The clock starts with it."""

    def __init__(self, kills: Sequence[Kill]) -> None:
        self.num_done = 0
        self._begun = self._last = time.monotonic()
        self._left = [kill.phase for kill in kills]
        self._took_s: dict[str, list[float]] = {"before": [], "after": []}

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._begun

    def say(self, text: str) -> None:
        """One happening; what comes next begins now."""
        print(f"[{self.seconds:6.1f} s] {text}", flush=True)
        self._last = time.monotonic()

    def killed(self, kill: Kill, pid: int, state: str, checked: str) -> None:
        """A kill is done and checked."""
        self.num_done += 1
        self._left.remove(kill.phase)
        self._took_s[kill.phase].append(time.monotonic() - self._last)
        self.say(f"kill {self.num_done:2}  {kill.process:<10} pid {pid:<7} {state:<17} {checked}")
        if self._left and self.num_done % _EVERY == 0:
            self.say(f"about {self._left_s():.0f} s left")

    def _left_s(self) -> float:
        return sum(fmean(self._took_s[phase] or [_FIRST_GUESS_S[phase]]) for phase in self._left)
