"""The sandbox: programs go in, outputs come out; who may be trusted with what is decided outside.

A few threads each keep one box and feed it programs one after another. A box that a program has
spoilt is replaced, so what one program does is never seen by the next.
"""

import os
import platform
import sys
import tempfile
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from appliance.core.errors import UnavailableError
from appliance.sandbox import seccomp
from appliance.sandbox.box import Box
from appliance.sandbox.bubblewrap import TMP, box_command
from appliance.sandbox.limits import Limits
from appliance.sandbox.programs import Program, Run, Status, read_exchange
from appliance.sandbox.runtime import this_runtime

_RUNNER = (Path(__file__).parent / "runner.py").read_text()
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}


class UnsafeSandboxWarning(UserWarning):
    """Untrusted code runs with this user's rights."""


class Sandbox(ABC):
    """Runs programs in boxes; `submit` and `run` may be called from any thread."""

    def __init__(self, limits: Limits | None = None, *, jobs: int | None = None) -> None:
        self.limits = limits or Limits()
        self.jobs = jobs or min(4, os.cpu_count() or 1)
        # bubblewrap's --die-with-parent means the thread that started it, so the thread that
        # keeps a box must live as long as the box.
        self._threads = ThreadPoolExecutor(self.jobs, thread_name_prefix="sandbox")
        self._mine = threading.local()
        self._boxes: set[Box] = set()

    @property
    def name(self) -> str:
        """What this is, for people: the class's name says whether it is unsafe."""
        return type(self).__name__

    @abstractmethod
    def _start(self) -> Box:
        """A fresh box.

        Raises:
            UnavailableError: boxes of this kind cannot be had here.
        """

    def submit(self, program: Program) -> Future[Run]:
        """Run one program as soon as a box is free."""
        return self._threads.submit(self._run, program)

    def run(self, programs: Sequence[Program]) -> list[Run]:
        """Run a batch, in as many boxes as there are jobs; results in the order given."""
        return [future.result() for future in [self.submit(program) for program in programs]]

    def close(self) -> None:
        """End all boxes. Programs not yet started are dropped."""
        self._threads.shutdown(cancel_futures=True)
        for box in self._boxes:
            box.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, program: Program) -> Run:
        run = self._try(program)
        # A box can be lost to the machine (memory, a kill from outside); once more, then void.
        return self._try(program) if run.status is Status.LOST else run

    def _try(self, program: Program) -> Run:
        frame = msgspec.json.encode(
            {
                "source": program.source,
                "answer": program.answer,
                "cases": program.cases,
                "limits": self._resources(program.timeout_s),
            }
        )
        started = time.monotonic()
        try:
            box = self._box()
            started = time.monotonic()
            exchange = box.run(
                frame, timeout_s=program.timeout_s, output_bytes=self.limits.output_bytes
            )
        except UnavailableError as error:
            return Run(status=Status.LOST, detail=error.message)
        run = read_exchange(program, exchange, time.monotonic() - started)
        if run.status is Status.LOST:
            box.close()
        if not box.usable:
            self._boxes.discard(box)
        return run

    def _box(self) -> Box:
        box: Box | None = getattr(self._mine, "box", None)
        if box is None or not box.usable:
            box = self._mine.box = self._start()
            self._boxes.add(box)
        return box

    def _resources(self, timeout_s: float) -> dict[str, int]:
        return self.limits.resources(timeout_s)


class BubblewrapSandbox(Sandbox):
    """Boxes of bubblewrap: namespaces of their own, no network, nothing to write, no /proc.

    One kernel is still shared with the machine.
    """

    def _start(self) -> Box:
        machine = platform.machine()
        filter_in_hex = seccomp.program_filter(machine).hex()
        runtime = this_runtime()

        def command(box_filter: int, results: int, control: int) -> Sequence[str]:
            inner = _runner(runtime.executable, results, control, filter_in_hex, TMP)
            return box_command(runtime, self.limits, _ENVIRONMENT, box_filter, inner)

        path = {"PATH": os.environ.get("PATH", os.defpath)}
        return Box(command, seccomp=seccomp.box_filter(machine), environment=path)

    def _resources(self, timeout_s: float) -> dict[str, int]:
        # Counted per user and namespace; the box's user is nobody else's.
        return {**super()._resources(timeout_s), "RLIMIT_NPROC": self.limits.threads}


class UnsafeProcessSandbox(Sandbox):
    """No box: a process with limits and a filter, but with this user's files before it.

    For machines where user namespaces are switched off. Never for code from strangers.
    """

    def __init__(
        self, limits: Limits | None = None, *, jobs: int | None = None, because: str = ""
    ) -> None:
        super().__init__(limits, jobs=jobs)
        _warn_once(because)

    def _start(self) -> Box:
        try:
            filter_in_hex = seccomp.program_filter(platform.machine()).hex()
        except UnavailableError:
            filter_in_hex = ""
        folder = Path(tempfile.mkdtemp(prefix="espalier-unsafe-"))

        def command(_box_filter: int, results: int, control: int) -> Sequence[str]:
            return _runner(Path(sys.executable), results, control, filter_in_hex, str(folder))

        return Box(command, seccomp=b"", environment=_ENVIRONMENT, folder=folder)


def open_sandbox(limits: Limits | None = None, *, jobs: int | None = None) -> Sandbox:
    """The strongest sandbox that works here, tried out before it is handed over."""
    sandbox: Sandbox = BubblewrapSandbox(limits, jobs=jobs)
    try:
        check_works(sandbox)
    except UnavailableError as error:
        sandbox.close()
        sandbox = UnsafeProcessSandbox(limits, jobs=jobs, because=error.message)
        check_works(sandbox)
    return sandbox


def check_works(sandbox: Sandbox) -> None:
    """Run one program, and see that it cannot start a process.

    Raises:
        UnavailableError: it does not run, or it is not held.
    """
    source = (
        "import os\n"
        "def run(answer, case):\n"
        "    try: os.fork() or os._exit(0)\n"
        "    except PermissionError: return case\n"
    )
    (run,) = sandbox.run([Program(source=source, answer="", cases=(1,), timeout_s=20)])
    if run.status is not Status.FINISHED or run.outputs != (1,):
        raise UnavailableError(f"{sandbox.name} does not hold a program here: {run.detail}")


def _runner(python: Path, results: int, control: int, filter_in_hex: str, folder: str) -> list[str]:
    # Not -I, which would ignore PYTHONHASHSEED: the order of a set must not change a verdict.
    arguments = [str(results), str(control), filter_in_hex, folder]
    return [str(python), "-s", "-P", "-S", "-B", "-c", _RUNNER, *arguments]


_warned = threading.Event()


def _warn_once(because: str) -> None:
    if _warned.is_set():
        return
    _warned.set()
    warnings.warn(
        "UnsafeProcessSandbox: untrusted code runs with this user's rights and can read this"
        f" user's files. Boxes cannot be had: {because or 'they were not asked for'}.\n"
        "  next: install bubblewrap and allow user namespaces",
        UnsafeSandboxWarning,
        stacklevel=4,
    )
