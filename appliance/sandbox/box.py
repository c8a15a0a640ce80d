"""One running box, seen from outside: a process, four pipes, and a clock that it cannot touch."""

import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path

import msgspec

from appliance.core.errors import UnavailableError

_START_S = 20.0
_READ_BYTES = 1 << 16

Command = Callable[[int, int, int], Sequence[str]]
"""(descriptor of the box's filter, of results, of control) → the command to run."""


class Ended(StrEnum):
    """How a box gave its program back."""

    EXITED = "exited"
    FLOODED = "flooded"
    OVERDUE = "overdue"
    LOST = "lost"


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """What came out of the box while one program ran."""

    ended: Ended
    wait_status: int = 0
    """As from waitpid; of the program's process, where it ended by itself."""
    results: bytes = b""
    printed: bytes = b""


class Box:
    """A runner behind pipes. Not thread-safe: one thread starts it, uses it and closes it.

    `usable` turns False when a program overran, flooded, or left something behind; the box is
    then thrown away, which is the one clean-up that cannot be incomplete. `folder`, where it is
    given, belongs to the box: it starts there, and the folder goes with it.
    """

    def __init__(
        self,
        command: Command,
        *,
        seccomp: bytes,
        environment: Mapping[str, str],
        folder: Path | None = None,
    ) -> None:
        self.usable = True
        self._folder = folder
        stdin, self._stdin = os.pipe()
        self._printed, stdout = os.pipe()
        self._results, results = os.pipe()
        self._control, control = os.pipe()
        filter_read, filter_write = os.pipe()
        os.write(filter_write, seccomp)
        os.close(filter_write)
        self._ours = (self._stdin, self._printed, self._results, self._control)
        theirs = (stdin, stdout, results, control, filter_read)
        for descriptor in self._ours:
            os.set_blocking(descriptor, False)
        with tempfile.TemporaryFile() as complaints:
            try:
                self._process = subprocess.Popen(
                    command(filter_read, results, control),
                    stdin=stdin,
                    stdout=stdout,
                    stderr=complaints,
                    pass_fds=(results, control, filter_read),
                    env=dict(environment),
                    cwd=folder or "/",
                    start_new_session=True,
                )
            except (OSError, UnavailableError) as error:
                self._release()
                raise UnavailableError(f"cannot start a box: {error}") from error
            finally:
                for descriptor in theirs:
                    os.close(descriptor)
            self._await_ready(complaints.fileno())

    def run(self, frame: bytes, *, timeout_s: float, output_bytes: int) -> Exchange:
        """Send one program in, and collect what comes out until it ends or must be ended."""
        deadline = time.monotonic() + timeout_s
        unsent = memoryview(len(frame).to_bytes(4, "little") + frame)
        out = {self._results: bytearray(), self._printed: bytearray()}
        poll = select.poll()
        for descriptor in (*out, self._control):
            poll.register(descriptor, select.POLLIN)
        poll.register(self._stdin, select.POLLOUT)
        while (left_s := deadline - time.monotonic()) > 0:
            ready = [descriptor for descriptor, _ in poll.poll(left_s * 1000)]
            if self._stdin in ready:
                unsent = unsent[_write(self._stdin, unsent) :]
                if not unsent:
                    poll.unregister(self._stdin)
            for descriptor in out.keys() & ready:
                out[descriptor] += _read(descriptor) or b""
            if self._control in ready:
                return self._ended(out, output_bytes)
            if max(map(len, out.values())) > output_bytes:
                return self._end(Ended.FLOODED, out)
        return self._end(Ended.OVERDUE, out)

    def close(self) -> None:
        """End everything in the box. Safe to call twice."""
        if not self.usable:
            return
        # The group, because without namespaces the program's process would live on.
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._release()

    def _release(self) -> None:
        self.usable = False
        for descriptor in self._ours:
            os.close(descriptor)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _await_ready(self, complaints: int) -> None:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.poll(_START_S * 1000)
        if _read(self._control) != b"ready\n":
            self.close()
            said = os.pread(complaints, 2000, 0).decode(errors="replace").strip()
            raise UnavailableError(f"the box does not start: {said or 'no answer'}")

    def _ended(self, out: dict[int, bytearray], output_bytes: int) -> Exchange:
        try:
            wait_status, clean = map(int, (_read(self._control) or b"").split())
        except ValueError:
            return self._end(Ended.LOST, out)
        # The program's process is gone, so what is in the pipes now is all there will be.
        for descriptor, data in out.items():
            while len(data) <= output_bytes and (more := _read(descriptor)):
                data += more
        if max(map(len, out.values())) > output_bytes:
            return self._end(Ended.FLOODED, out)
        if not clean:
            self.close()
        return self._exchange(Ended.EXITED, out, wait_status)

    def _end(self, ended: Ended, out: dict[int, bytearray]) -> Exchange:
        self.close()
        return self._exchange(ended, out, 0)

    def _exchange(self, ended: Ended, out: dict[int, bytearray], wait_status: int) -> Exchange:
        results, printed = bytes(out[self._results]), bytes(out[self._printed])
        return Exchange(ended=ended, wait_status=wait_status, results=results, printed=printed)


def _read(descriptor: int) -> bytes | None:
    """What is there now: None is nothing yet, empty is the end."""
    try:
        return os.read(descriptor, _READ_BYTES)
    except BlockingIOError:
        return None


def _write(descriptor: int, data: memoryview) -> int:
    try:
        return os.write(descriptor, data)
    except BlockingIOError:
        return 0
    except BrokenPipeError:
        return len(data)  # the box is gone; control says so in a moment
