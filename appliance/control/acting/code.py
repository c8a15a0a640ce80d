"""Running what a model wrote: in the sandbox's own program, never here."""

import re
import subprocess
import sys
import threading

import msgspec

from appliance.control import programs
from appliance.control.identity import Person
from appliance.control.steps import Ground
from appliance.core.errors import UnavailableError, UsageError
from policies.access import Act

TIMEOUT_S = 5.0
_GRACE_S = 30.0
"""For the box itself, on a machine that is busy."""
_AT_ONCE = 2
CODE_MAX_BYTES = 1 << 20
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})[^`]{0,200}")
_room = threading.BoundedSemaphore(_AT_ONCE)


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """What a program did; see `python -m appliance.sandbox run`."""

    status: str
    printed: str
    error: str
    detail: str
    seconds: float
    sandbox: str


def code_of(answer: str) -> str:
    """The last fenced block of an answer, or all of it where there is none."""
    # Line by line: one expression over all of it would go back and forth on hostile text.
    mark, last = "", answer
    block: list[str] = []
    for line in answer.splitlines(keepends=True):
        fence = _FENCE.fullmatch(line.rstrip())
        if not mark and fence:
            mark, block = fence[1], []
        elif mark and line.strip().startswith(mark) and not line.strip().strip(mark[0]):
            last, mark = "".join(block), ""
        elif mark:
            block.append(line)
    return "".join(block) if mark else last


def run_code(ground: Ground, person: Person, code: str) -> Ran:
    """Run Python code in the box, for a few seconds.

    Raises:
        ForbiddenError: this person does not talk.
        UsageError: there is no code, or it is too long.
        UnavailableError: two programs run already, or the box failed.
    """
    person.require(Act.TALK)
    data = code.encode("utf-8", "backslashreplace")
    if not code.strip():
        raise UsageError("there is no code to run")
    if len(data) > CODE_MAX_BYTES:
        raise UsageError(f"code has at most {CODE_MAX_BYTES >> 20} MiB")
    if not _room.acquire(blocking=False):
        raise UnavailableError(
            f"{_AT_ONCE} programs run already", next_step="wait a few seconds and run it again"
        )
    try:
        return _run(ground, data)
    finally:
        _room.release()


def _run(ground: Ground, code: bytes) -> Ran:
    words = ("-m", "appliance.sandbox", "run", "--json", "--timeout-s", str(TIMEOUT_S))
    try:
        ended = subprocess.run(
            [sys.executable, *words],
            input=code,
            capture_output=True,
            env=programs.environment(ground.home, 1),
            timeout=TIMEOUT_S + _GRACE_S,
            check=False,
        )
        if ended.returncode == 0:
            return msgspec.json.decode(ended.stdout.splitlines()[-1], type=Ran)
    except (subprocess.TimeoutExpired, msgspec.DecodeError, IndexError) as error:
        raise UnavailableError(
            f"the sandbox did not answer: {type(error).__name__}", next_step="espalier doctor"
        ) from error
    why = ended.stderr.decode(errors="replace").strip()[-500:].removeprefix("espalier: ")
    kind = UsageError if ended.returncode == UsageError.exit_code else UnavailableError
    raise kind(why or "the sandbox failed", next_step="espalier doctor")
