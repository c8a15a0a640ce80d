"""What the demo says while it runs: elapsed time, time left, memory, and one line per happening."""

import sys
import time

from appliance.demo.memory import MemoryMeter


class Voice:
    """Lines for people on stderr; stdout is for the JSON."""

    def __init__(self, memory: MemoryMeter) -> None:
        self._memory = memory
        self._started = time.monotonic()
        self._ahead: list[tuple[str, float]] = []
        self._stage: tuple[float, float] | None = None
        self._behind_s = 0.0
        self._drawn = False

    @property
    def seconds(self) -> float:
        """Since the clock was set."""
        return time.monotonic() - self._started

    def start_clock(self) -> None:
        """The base is made: from here on time counts."""
        self._started = time.monotonic()

    def expect(self, stages: list[tuple[str, float]]) -> None:
        """What is to come, with the seconds that each typically takes."""
        self._ahead = list(stages)

    def reach(self, stage: str) -> None:
        """A stage begins; those before it are over, or are left out."""
        if self._stage is not None:
            self._behind_s += self._stage[1]
        names = [name for name, _ in self._ahead]
        typical_s = 0.0
        if stage in names:
            position = names.index(stage)
            typical_s = self._ahead[position][1]
            del self._ahead[: position + 1]
        self._stage = (self.seconds, typical_s)

    @property
    def left_s(self) -> float | None:
        """Seconds to the end: what is typical, at the pace so far; None before the first stage."""
        if self._stage is None:
            return None
        begun, typical_s = self._stage
        pace = begun / self._behind_s if self._behind_s else 1.0
        here_s = max(0.0, typical_s * pace - (self.seconds - begun))
        return here_s + pace * sum(seconds for _, seconds in self._ahead)

    def say(self, text: str) -> None:
        """One happening."""
        self._clear()
        print(f"{self._head()}  {text}", file=sys.stderr, flush=True)

    def progress(self, text: str) -> None:
        """A line that the next one overwrites, where a person looks on."""
        if not sys.stderr.isatty():
            return
        self._clear()
        print(f"{self._head()}  {text}", end="", file=sys.stderr, flush=True)
        self._drawn = True

    def title(self, text: str) -> None:
        """A part of the story begins."""
        self._clear()
        print(f"\n── {text} " + "─" * max(0, 78 - len(text)), file=sys.stderr, flush=True)

    def _head(self) -> str:
        left = "" if self.left_s is None else f", about {self.left_s:3.0f} s left"
        return f"[{self.seconds:5.1f} s{left}, {self._memory.now_mib / 1024:.1f} GiB]"

    def _clear(self) -> None:
        if self._drawn:
            print("\r\x1b[K", end="", file=sys.stderr)
            self._drawn = False
