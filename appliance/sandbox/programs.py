"""What goes into a sandbox, what comes out, and how the bytes that came out are read.

Everything that a box says was written by the program, except how its process ended and how long
it took. So nothing here is a verdict.
"""

import os
import signal
from enum import StrEnum
from typing import Any

import msgspec

from appliance.core.records import Json
from appliance.sandbox.box import Ended, Exchange

HARNESS_FAILED = 111
"""The runner's child could not even start the program."""

_PRINTED_CHARS = 4096


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """Python source that defines ``run(answer, case)``, called in order on each case."""

    source: str
    answer: str
    cases: tuple[Json, ...]
    timeout_s: float = 2.0
    """Wall time over all cases."""


class Status(StrEnum):
    """How a run ended."""

    FINISHED = "finished"
    """Every case has an output."""
    RAISED = "raised"
    """An exception came out of it."""
    ENDED_EARLY = "ended_early"
    """Its process ended, or crashed, before every case had an output."""
    FLOODED = "flooded"
    """It wrote more than the limit, and was ended."""
    TIMED_OUT = "timed_out"
    """It overran, and was ended. Says nothing about right or wrong."""
    LOST = "lost"
    """The box failed, not the program. Says nothing about right or wrong."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What one program gave. `outputs` may be fewer than its cases."""

    status: Status
    outputs: tuple[Json, ...] = ()
    error: str = ""
    """Name of the exception, or of the signal that ended it."""
    detail: str = ""
    """One sentence on anything but FINISHED."""
    printed: str = ""
    seconds: float = 0.0


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    output: Any = msgspec.UNSET
    error: str = ""
    text: str = ""


def read_exchange(program: Program, exchange: Exchange, seconds: float) -> Run:
    """The run that came out of the box."""
    printed = exchange.printed[:_PRINTED_CHARS].decode(errors="replace")
    outputs, failure = _read_lines(exchange.results, len(program.cases))

    def run(status: Status, error: str = "", detail: str = "") -> Run:
        return Run(
            status=status,
            outputs=outputs,
            error=error,
            detail=detail,
            printed=printed,
            seconds=seconds,
        )

    match exchange.ended:
        case Ended.OVERDUE:
            return run(Status.TIMED_OUT, detail=f"no end after {program.timeout_s:g} s")
        case Ended.LOST:
            return run(Status.LOST, detail="the box ended under it")
        case Ended.FLOODED:
            return run(Status.FLOODED, detail="wrote more than the limit")
    if os.WIFSIGNALED(exchange.wait_status):
        number = os.WTERMSIG(exchange.wait_status)
        name = signal.Signals(number).name
        if number == signal.SIGXCPU:
            return run(Status.TIMED_OUT, name, "used up its processor time")
        if number == signal.SIGKILL:
            # Nobody in the box can send it: it was the kernel, out of memory or of patience.
            return run(Status.LOST, name, "the kernel ended it")
        return run(Status.ENDED_EARLY, name, f"crashed with {name}")
    if os.WEXITSTATUS(exchange.wait_status) == HARNESS_FAILED:
        return run(Status.LOST, detail="the program's process could not be set up")
    if failure is not None:
        return run(Status.RAISED, failure.error, f"{failure.error}: {failure.text}".rstrip(": "))
    if len(outputs) < len(program.cases):
        return run(Status.ENDED_EARLY, detail="ended without a result")
    return run(Status.FINISHED)


def _read_lines(results: bytes, num_cases: int) -> tuple[tuple[Json, ...], _Line | None]:
    outputs: list[Json] = []
    for raw in results.splitlines():
        try:
            line = msgspec.json.decode(raw, type=_Line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return tuple(outputs), _Line(error="Unreadable", text="an output is not JSON")
        if line.output is msgspec.UNSET:
            return tuple(outputs), line
        if len(outputs) == num_cases:
            return tuple(outputs), _Line(error="Unreadable", text="more outputs than cases")
        outputs.append(line.output)
    return tuple(outputs), None
