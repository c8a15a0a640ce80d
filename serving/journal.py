"""The release journal: an append-only table, moved by compare-and-set.

Generation N + 1 of an alias exists once, so of two who saw generation N only one succeeds. Every
entry is written in one transaction with its audit entry, before anything takes effect.
"""

from typing import Any

import sqlalchemy as sa

from appliance.core import audit
from appliance.core.database import Database
from appliance.core.decisions import MOVES, Release
from appliance.core.errors import ConflictError
from appliance.core.records import decode, encode
from appliance.core.tables import releases


def current(database: Database, alias: str) -> Release | None:
    """The entry in force; None where nothing was ever written."""
    with database.read() as connection:
        return _current(connection, alias)


def last_move(database: Database, alias: str) -> Release | None:
    """The entry that made the alias mean what it means; what is tried out since is not one."""
    with database.read() as connection:
        row = connection.execute(
            sa.select(releases.c.record)
            .where(releases.c.alias == alias, releases.c.reason.in_(MOVES))
            .order_by(releases.c.generation.desc())
            .limit(1)
        ).first()
    return None if row is None else decode(row.record, Release)


def history(database: Database, alias: str, limit: int = 100) -> list[Release]:
    """The latest entries, newest first."""
    with database.read() as connection:
        rows = connection.execute(
            sa.select(releases.c.record)
            .where(releases.c.alias == alias)
            .order_by(releases.c.generation.desc())
            .limit(limit)
        ).all()
    return [decode(row.record, Release) for row in rows]


def append(database: Database, entry: Release, *, comment: str = "", **detail: Any) -> Release:
    """Write the next entry: `entry.generation` must be the current one plus one. What else is said
    stands in its audit entry.

    Raises:
        ConflictError: somebody else moved the alias first; nothing was written.
        UnavailableError: the database takes nothing; nothing was written.
    """
    with database.write() as connection:
        last = _current(connection, entry.alias)
        generation = 0 if last is None else last.generation
        if entry.generation != generation + 1:
            raise ConflictError(
                f"{entry.alias} is at generation {generation}, "
                f"expected generation {entry.generation - 1}",
                next_step="look at what is served now, then decide again",
            )
        trying = entry.trying
        if trying is not None:
            detail = {**detail, "candidate": trying.candidate, "share": trying.share}
        audit.record(
            connection,
            actor=entry.actor,
            act=f"alias.{entry.reason}",
            subject=entry.adapter or "base",
            at=entry.at,
            alias=entry.alias,
            generation=entry.generation,
            previous=entry.previous,
            approvals=list(entry.approvals),
            comment=comment,
            **detail,
        )
        connection.execute(
            sa.insert(releases).values(
                alias=entry.alias,
                generation=entry.generation,
                adapter=entry.adapter,
                previous=entry.previous,
                reason=entry.reason,
                record=encode(entry).decode(),
                at=entry.at,
            )
        )
    return entry


def _current(connection: sa.Connection, alias: str) -> Release | None:
    row = connection.execute(
        sa.select(releases.c.record)
        .where(releases.c.alias == alias)
        .order_by(releases.c.generation.desc())
        .limit(1)
    ).first()
    return None if row is None else decode(row.record, Release)
