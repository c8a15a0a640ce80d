"""What a run tells while it works: progress.json, curve.jsonl, and a bar on a terminal."""

import sys
import time
from pathlib import Path
from types import TracebackType

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from adapter_training.collapse import Point
from appliance.core.files import publish

_INTERVAL_S = 0.5


class State(msgspec.Struct, frozen=True, kw_only=True):
    """progress.json."""

    step: int
    total: int
    loss: float | None
    tokens_per_s: float
    eta_s: float | None


class Reporter:
    """Writes the files in `folder` and draws the bar on standard error, if that is a terminal."""

    def __init__(self, folder: Path, curve: list[Point], total: int) -> None:
        self._folder, self._total, self._done_before = folder, total, len(curve)
        lines = b"".join(msgspec.json.encode(point) + b"\n" for point in curve)
        publish(folder / "curve.jsonl", lines)
        self._curve = (folder / "curve.jsonl").open("ab")
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("training", total=total, completed=len(curve), loss=0.0)
        self._begun = time.monotonic()
        self._written = 0.0
        self._tokens = 0

    def __enter__(self) -> "Reporter":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        self._curve.close()

    def step(self, point: Point) -> None:
        """One step is done."""
        self._curve.write(msgspec.json.encode(point) + b"\n")
        self._curve.flush()
        self._bar.update(self._task, completed=point.step + 1, loss=point.loss)
        self._tokens += point.num_tokens
        now = time.monotonic()
        if now - self._written >= _INTERVAL_S or point.step + 1 == self._total:
            self._written = now
            publish(self._folder / "progress.json", msgspec.json.encode(self._state(point, now)))

    def warn(self, sentence: str) -> None:
        """Say it, and go on."""
        self._console.print(f"warning: {sentence}", style="yellow", highlight=False)

    @property
    def tokens_per_s(self) -> float:
        """Of this process, since its first step."""
        return self._tokens / max(time.monotonic() - self._begun, 1e-9)

    def _state(self, point: Point, now: float) -> State:
        done = point.step + 1
        per_step = (now - self._begun) / (done - self._done_before)
        return State(
            step=done,
            total=self._total,
            loss=point.loss,
            tokens_per_s=round(self.tokens_per_s, 1),
            eta_s=round(per_step * (self._total - done), 1),
        )
