"""What a format makes of one record: turns to be, and what is known about how they turned out."""

from typing import Any

import msgspec

from appliance.core.records import Json, Outcome


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """Something in a file that became no turn, and why."""

    where: str
    reason: str
    detail: str = ""


class DraftTurn(msgspec.Struct, frozen=True, kw_only=True):
    """One answer and everything that stood before it."""

    messages: tuple[Json, ...]
    answer: Json
    tools: tuple[Json, ...] = ()
    finish_reason: str = "stop"
    choice: int = 0
    at: float | None = None
    """When it was answered, where the record says so."""


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """One record of a file, read."""

    format: str
    turns: tuple[DraftTurn, ...]
    outcome: Outcome = "unknown"
    task: str | None = None
    family: str | None = None
    session: str | None = None
    joins: bool = False
    """True for a line of a request log: an earlier line may be an earlier turn of the same work."""
    tags: dict[str, str] = {}
    skipped: tuple[Skipped, ...] = ()


Raw = dict[str, Any]
