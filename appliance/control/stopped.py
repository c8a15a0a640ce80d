"""Whose requests are refused now, as the database has it. Who stops them: serving/pauses.py."""

import time
from typing import Any

import msgspec
import sqlalchemy as sa

from appliance.core.database import Database
from appliance.core.tables import pauses


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """A key, an agent or a team that was paused, or killed: what was under way ended too."""

    kind: str
    name: str
    killed: bool
    actor: str
    reason: str
    at: float
    message: str
    """For people, as the agents read it too."""


def stopped_now(database: Database) -> list[Stopped]:
    """All of them, longest first."""
    with database.read() as connection:
        rows = connection.execute(sa.select(pauses).order_by(pauses.c.at)).all()
    return [Stopped(**row._mapping, message=_message(row)) for row in rows]


def _message(row: sa.Row[Any]) -> str:
    act = "killed" if row.killed else "paused"
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(row.at))
    return f"{row.kind} {row.name!r} was {act} by {row.actor}, since {since}: {row.reason}"
