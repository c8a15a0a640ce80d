"""What the demo says while it runs: elapsed time, time left, memory, and one line per happening."""

import sys
import time

from appliance.demo.memory import MemoryMeter


class Voice:
    """Lines for people on stderr; stdout is for the JSON."""

    def __init__(self, memory: MemoryMeter) -> None:
        self._memory = memory
        self._started = time.monotonic()
        self._left_s: float | None = None
        self._drawn = False

    @property
    def seconds(self) -> float:
        """Since the clock was set."""
        return time.monotonic() - self._started

    def start_clock(self) -> None:
        """The base is made: from here on time counts."""
        self._started = time.monotonic()

    def expect(self, left_s: float) -> None:
        """How long the rest takes, as far as is known."""
        self._left_s = left_s

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
        left = "" if self._left_s is None else f", about {max(0.0, self._left_s):3.0f} s left"
        return f"[{self.seconds:5.1f} s{left}, {self._memory.now_mib / 1024:.1f} GiB]"

    def _clear(self) -> None:
        if self._drawn:
            print("\r\x1b[K", end="", file=sys.stderr)
            self._drawn = False
