"""The one thread that owns the engine. Others hand it acts and get futures."""

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import torch

from appliance.core.errors import UnavailableError
from appliance.inference.engine import Engine

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Worker(threading.Thread):
    """Runs acts between steps, and steps while there is work."""

    def __init__(self, engine: Engine, after_step: Callable[[], None]) -> None:
        super().__init__(name="engine", daemon=True)
        self._engine = engine
        self._after_step = after_step
        self._acts: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopping = False

    def submit(self, act: Callable[[Engine], T]) -> "Future[T]":
        """Have `act` done on the engine's thread, between two steps."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(act(self._engine))
            except BaseException as error:
                future.set_exception(error)

        self._acts.put(run)
        return future

    def stop(self) -> None:
        """End the thread after the step under way, and wait for it."""
        self._acts.put(self._stop)
        self.join()

    def run(self) -> None:
        """The thread's body."""
        with torch.inference_mode():
            while not self._stopping:
                self._run_acts()
                if self._engine.busy and not self._stopping:
                    self._step()

    def _run_acts(self) -> None:
        if not self._engine.busy:
            self._acts.get()()
        while not self._acts.empty():
            self._acts.get()()

    def _step(self) -> None:
        try:
            self._engine.step()
        except Exception as error:
            # Whatever broke this step would break the next: give the work up, stay alive.
            _log.exception("a step failed; everything under way is given up")
            self._engine.fail_all(
                UnavailableError(f"the engine failed in a step: {_first_line(error)}")
            )
        self._after_step()

    def _stop(self) -> None:
        self._stopping = True


def _first_line(error: BaseException) -> str:
    lines: list[Any] = str(error).splitlines() or [type(error).__name__]
    return str(lines[0])[:200]
