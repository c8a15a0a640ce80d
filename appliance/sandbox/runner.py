"""The process in the box: forks once per program and says how each child ended. Nothing else.

Runs under ``python -I -S -c <this file>`` inside the box, so it imports the standard library
alone. Its arguments: the descriptors for results and for control, the program filter in hex.

    outside ── stdin: one frame ──▶ child      (the runner never reads a program)
    outside ◀─ results: JSON lines ─ child     (the runner never reads a result)
    outside ◀─ control: how it ended ─ runner  (the child has closed it before untrusted code)

Programs run one after another, so no sibling is alive while one runs. What one could leave
behind for the next is its temporary folder, and control says whether that is still empty. Time
is not kept here: whoever is outside ends the whole box when a program overruns.
"""

import ctypes
import json
import os
import resource
import select
import signal
import struct
import sys
from typing import Any

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 4, 38, 22
_MODE_FILTER = 2
_ABOVE_ANY = 1 << 20
"""A large process hands over high descriptors; the box's own limit on files does not show them."""

libc = ctypes.CDLL(None, use_errno=True)


class Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def main() -> None:
    """Fork for each frame that arrives, until the outside closes stdin."""
    results, control, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[4]
    seccomp = bytes.fromhex(sys.argv[3])
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    close_all_but(results, control)
    arrivals = select.poll()
    arrivals.register(0, select.POLLIN)
    os.write(control, b"ready\n")
    while arrivals.poll()[0][1] & select.POLLIN:
        child = os.fork()
        if child == 0:
            run_child(results, control, seccomp)
        _, status = os.waitpid(child, 0)
        clean = not os.listdir(folder)  # noqa: PTH208 - no pathlib in here
        os.write(control, b"%d %d\n" % (status, clean))


def close_all_but(*kept: int) -> None:
    """Close every descriptor above the three standard ones, except `kept`."""
    first = 3
    for descriptor in sorted(kept):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, _ABOVE_ANY)


def run_child(results: int, control: int, seccomp: bytes) -> None:
    """Read the frame, lock the door, run the program, leave without unwinding."""
    try:
        frame = json.loads(read_frame())
        os.close(control)  # what the runner says cannot be forged
        nothing = os.open("/dev/null", os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        # A sibling before may have changed the flags that all writers of a pipe share.
        os.set_blocking(results, True)
        os.set_blocking(1, True)
        os.dup2(1, 2)
        for name, value in frame["limits"].items():
            resource.setrlimit(getattr(resource, name), (value, value))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        if seccomp:
            install(seccomp)
    except BaseException:
        os._exit(111)
    try:
        run_program(results, frame["source"], frame["answer"], frame["cases"])
        sys.stdout.flush()
    except BaseException:
        os._exit(1)
    os._exit(0)


def read_frame() -> bytes:
    """The bytes of one frame: four bytes of length, then the frame."""
    (length,) = struct.unpack("<I", read_exactly(4))
    return read_exactly(length)


def read_exactly(count: int) -> bytes:
    """`count` bytes of stdin, and not one more."""
    parts = []
    while count:
        part = os.read(0, count)
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def install(seccomp: bytes) -> None:
    """Put the program's filter on this process, for good."""
    program = Program(len(seccomp) // 8, seccomp)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def run_program(results: int, source: str, answer: str, cases: list[Any]) -> None:
    """Call the program's ``run(answer, case)`` on each case; one line per output."""
    space: dict[str, Any] = {"__name__": "program"}
    try:
        exec(compile(source, "program", "exec"), space)  # noqa: S102 - this is the box
        for case in cases:
            output = space["run"](answer, case)
            write_line(results, {"output": output})
    except BaseException as error:
        text = str(error)[:1000].encode(errors="replace").decode()
        write_line(results, {"error": type(error).__name__, "text": text})


def write_line(results: int, value: dict[str, Any]) -> None:
    """One JSON line, written whole."""
    line = memoryview(json.dumps(value, allow_nan=False).encode() + b"\n")
    while line:
        line = line[os.write(results, line) :]


if __name__ == "__main__":
    main()
