"""The audit log: append-only, each entry chained to the one before it.

An entry is written in the same transaction as the act, so neither exists without the other.
What is not here: an outside witness. Without one, the chain proves order and completeness only to
someone who kept an earlier head.
"""

from typing import Any

import msgspec
import sqlalchemy as sa

from appliance.core.digests import digest_json
from appliance.core.errors import IntegrityError
from appliance.core.tables import audit

_START = "sha256:" + "0" * 64


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One privileged act."""

    sequence: int
    at: float
    actor: str
    act: str
    subject: str
    detail: dict[str, Any]
    chain: str


def record(
    connection: sa.Connection, *, actor: str, act: str, subject: str, at: float, **detail: Any
) -> Entry:
    """Append an entry inside the caller's transaction (`Database.write`)."""
    last = connection.execute(
        sa.select(audit.c.sequence, audit.c.chain).order_by(audit.c.sequence.desc()).limit(1)
    ).first()
    sequence, previous = (last.sequence + 1, last.chain) if last else (1, _START)
    body: dict[str, Any] = {
        "sequence": sequence,
        "at": at,
        "actor": actor,
        "act": act,
        "subject": subject,
        "detail": detail,
    }
    chain = digest_json({"entry": body, "previous": previous})
    entry = Entry(**body, chain=chain)
    text = msgspec.json.encode(detail).decode()
    connection.execute(sa.insert(audit).values(**{**body, "detail": text}, chain=chain))
    return entry


def entries(connection: sa.Connection, *, after: int = 0, limit: int = 1000) -> list[Entry]:
    """Entries in order, after a sequence number."""
    rows = connection.execute(
        sa.select(audit).where(audit.c.sequence > after).order_by(audit.c.sequence).limit(limit)
    )
    return [_entry(row._asdict()) for row in rows]


def newest(
    connection: sa.Connection, *, before: int | None = None, act: str = "", limit: int = 100
) -> list[Entry]:
    """Entries newest first, below a sequence number; `act` is the beginning of their act."""
    query = sa.select(audit).order_by(audit.c.sequence.desc()).limit(limit)
    if before is not None:
        query = query.where(audit.c.sequence < before)
    if act:
        query = query.where(audit.c.act.startswith(act, autoescape=True))
    return [_entry(row._asdict()) for row in connection.execute(query).all()]


def verify(connection: sa.Connection) -> int:
    """Walk the whole chain and return the number of entries.

    Raises:
        IntegrityError: an entry was changed, removed or put in between.
    """
    previous, count = _START, 0
    for row in connection.execute(sa.select(audit).order_by(audit.c.sequence)):
        entry = _entry(row._asdict())
        body = {
            name: getattr(entry, name)
            for name in ("sequence", "at", "actor", "act", "subject", "detail")
        }
        count += 1
        if entry.sequence != count or entry.chain != digest_json(
            {"entry": body, "previous": previous}
        ):
            raise IntegrityError(f"the audit log was changed at entry {count}")
        previous = entry.chain
    return count


def _entry(row: dict[str, Any]) -> Entry:
    return Entry(**{**row, "detail": msgspec.json.decode(row["detail"])})
