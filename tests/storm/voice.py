"""What the storm prints: one line per kill, and how long the rest may take."""

import sys
import time

from tests.storm.plan import Kill


class Voice:
    """Lines for people. The clock starts with it."""

    def __init__(self, num_kills: int) -> None:
        self._begun = time.monotonic()
        self._num_kills = num_kills
        self.num_done = 0

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._begun

    def say(self, text: str) -> None:
        """One happening."""
        print(f"[{self.seconds:6.1f} s] {text}", flush=True)

    def killed(self, kill: Kill, pid: int, state: str, checked: str) -> None:
        """A kill is done and checked."""
        self.num_done += 1
        self.say(f"kill {self.num_done:2}  {kill.process:<10} pid {pid:<7} {state:<17} {checked}")
        left = self.seconds / self.num_done * (self._num_kills - self.num_done)
        if sys.stdout.isatty() and self.num_done < self._num_kills:
            print(f"           about {left:.0f} s left", end="\r", flush=True)
        elif self.num_done % 5 == 0 and self.num_done < self._num_kills:
            self.say(f"about {left:.0f} s left")
