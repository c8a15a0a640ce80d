"""Tasks: what an agent is asked to do, one JSON object a line."""

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from appliance.agent.checks import Check, parse_check
from appliance.core.errors import NotFoundError, RecordError
from appliance.core.records import Json

ON_FAILURE = "That did not work: {detail}. Try again, or answer {give_up}."


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of a task file."""

    task: str
    family: str
    messages: Annotated[tuple[Json, ...], Meta(min_length=1)]
    check: Json
    gold: str | None = None
    """A right answer, for those who correct the agent; never shown to it."""
    max_tokens: Annotated[int, Meta(ge=1)] = 256
    on_failure: str = ON_FAILURE
    """What the agent is told when its answer failed. Fields: {detail} {case} {got} {error}
    {outcome} {give_up}."""
    give_up: str = "give_up"
    """The answer that ends the work."""
    tools: bool = False
    """Offer the tools `run` and `give_up`, instead of taking each answer's text as it stands."""

    def parsed_check(self) -> Check:
        """The check, typed.

        Raises:
            RecordError: it is not a check.
        """
        return parse_check(self.check)


def read_tasks(path: Path) -> list[Task]:
    """All tasks of a file.

    Raises:
        NotFoundError: no such file.
        RecordError: a line is not a task, its check is not a check, or there is no task at all.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise NotFoundError(f"cannot read tasks from {path}: {error.strerror}") from error
    tasks = [_read_line(path, n, line) for n, line in enumerate(lines, 1) if line.strip()]
    if not tasks:
        raise RecordError(f"{path}: expected at least one task, got none")
    return tasks


def _read_line(path: Path, number: int, line: bytes) -> Task:
    try:
        task = msgspec.json.decode(line, type=Task)
        task.parsed_check()
    except (msgspec.DecodeError, UnicodeDecodeError, RecordError) as error:
        raise RecordError(f"{path}, line {number}: {error}") from error
    return task
