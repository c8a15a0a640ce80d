"""Checks: how an answer is judged. The answer runs in a sandbox, the verdict is decided here.

A check never goes into the box whole: its `expected` values stay outside, so nothing that runs
there can print them.
"""

import ast
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from appliance.core.errors import RecordError
from appliance.core.records import Json
from appliance.sandbox.programs import Program, Run, Status
from appliance.sandbox.sandbox import Sandbox, open_sandbox

_SHOWN_CHARS = 200


class ProgramCheck(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag="program",
    tag_field="kind",
    forbid_unknown_fields=True,
):
    """Source that defines ``run(answer, case)``; right when every case gives what is expected."""

    program: str
    cases: tuple[Json, ...]
    expected: tuple[Json, ...]
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 2.0


class ExactCheck(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag="exact",
    tag_field="kind",
    forbid_unknown_fields=True,
):
    """Right when the answer is this text, white space at its ends aside."""

    expected: str


Check = ProgramCheck | ExactCheck


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer was worth, and what an agent may be told about it.

    `void` is neither: it ran out of time, or the box failed. `got`, `case` and `error` are for
    messages; what was expected is in none of them.
    """

    outcome: Literal["ok", "failed", "void"]
    detail: str
    case: str = ""
    got: str = ""
    error: str = ""


def parse_check(value: Json) -> Check:
    """The check that a task or an item carries.

    Raises:
        RecordError: malformed, of an unknown kind, or one that any answer would pass.
    """
    try:
        check = msgspec.convert(value, ProgramCheck | ExactCheck)
    except msgspec.ValidationError as error:
        raise RecordError(f"not a check: {error}") from error
    if isinstance(check, ProgramCheck):
        # No cases would pass everything.
        if not check.cases:
            raise RecordError("a program check needs at least one case, got none")
        _require_python(check.program)
        if len(check.cases) != len(check.expected):
            raise RecordError(
                f"a program check needs one expected value per case,"
                f" got {len(check.expected)} for {len(check.cases)}"
            )
    return check


@lru_cache(256)
def _require_python(program: str) -> None:
    try:
        ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RecordError(f"a check's program is not Python: {error}") from error


def judge(answers: Sequence[tuple[Check, str]], *, sandbox: Sandbox | None = None) -> list[Verdict]:
    """One verdict per (check, answer), in order. Without `sandbox`, one is opened for the batch."""
    if sandbox is None:
        with open_sandbox() as opened:
            return judge(answers, sandbox=opened)
    running = [
        sandbox.submit(program_of(check, answer)) if isinstance(check, ProgramCheck) else None
        for check, answer in answers
    ]
    return [
        decide(check, answer, future.result() if future else None)
        for (check, answer), future in zip(answers, running, strict=True)
    ]


def program_of(check: ProgramCheck, answer: str) -> Program:
    """What goes into the box."""
    return Program(
        source=check.program, answer=answer, cases=check.cases, timeout_s=check.timeout_s
    )


def decide(check: Check, answer: str, run: Run | None) -> Verdict:
    """The verdict on what came out of the box. No I/O; `run` is None for an exact check."""
    if isinstance(check, ExactCheck):
        same = answer.strip() == check.expected.strip()
        return _OK if same else Verdict(outcome="failed", detail="not the expected text")
    if run is None or run.status in (Status.TIMED_OUT, Status.LOST):
        return Verdict(outcome="void", detail=run.detail if run else "it was not run")
    if run.status is Status.FINISHED and len(run.outputs) == len(check.expected):
        return _compare(check, run.outputs)
    num_done = min(len(run.outputs), len(check.cases) - 1)
    case = _show(check.cases[num_done])
    return Verdict(outcome="failed", detail=run.detail, case=case, error=run.error)


def _compare(check: ProgramCheck, outputs: Sequence[Json]) -> Verdict:
    for case, expected, got in zip(check.cases, check.expected, outputs, strict=True):
        if not same_json(got, expected):
            shown, given = _show(got), _show(case)
            detail = f"for {given} it gave {shown}, which is wrong"
            return Verdict(outcome="failed", detail=detail, case=given, got=shown)
    return _OK


def same_json(left: Json, right: Json) -> bool:
    """Equal as JSON: true is not 1, but 1 is 1.0."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_json(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same_json, left, right))
    return bool(left == right)


def _show(value: Json) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


_OK = Verdict(outcome="ok", detail="passed")
