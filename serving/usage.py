"""What each key used, by day: rows in the database, written in batches.

The gateway counts in memory (quota.py) and adds what is new once a second, and at its end. A
kill -9 loses what was not written: at most the last second's answers, and those under way. That
side refuses less: nobody is billed for what is not on record.
"""

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from appliance.core.database import Database
from appliance.core.tables import keys, usage
from serving.keys import Scope


class Spent(msgspec.Struct, kw_only=True):
    """An amount used: of one answer, one day, one month."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    units: float = 0.0
    """Money-like, at the prices in the settings when it was used."""

    @property
    def tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens

    def add(self, other: "Spent") -> None:
        """Count `other` too."""
        self.requests += other.requests
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.units += other.units


Batch = dict[tuple[str, int], Spent]
"""By key_id and day."""


def save(database: Database, batch: Batch) -> None:
    """Add a batch to the rows; all of it or nothing.

    Raises:
        UnavailableError: the disk is full. Nothing was written.
    """
    adding = insert(usage)
    columns = Spent.__struct_fields__
    adding = adding.on_conflict_do_update(
        index_elements=["key_id", "day"],
        set_={name: usage.c[name] + adding.excluded[name] for name in columns},
    )
    rows = [
        {"key_id": key_id, "day": day, **msgspec.structs.asdict(spent)}
        for (key_id, day), spent in batch.items()
    ]
    with database.write() as connection:
        connection.execute(adding, rows)


def load(database: Database, *, since_day: int) -> list[tuple[tuple[Scope, ...], int, Spent]]:
    """Every row from that day on, with the scopes that it counts for."""
    rows_of = (
        sa.select(usage, keys.c.agent, keys.c.team)
        .join(keys, keys.c.key_id == usage.c.key_id)
        .where(usage.c.day >= since_day)
    )
    with database.read() as connection:
        rows = connection.execute(rows_of).all()
    return [
        (
            (Scope("key", row.key_id), Scope("agent", row.agent), Scope("team", row.team)),
            row.day,
            Spent(**{name: getattr(row, name) for name in Spent.__struct_fields__}),
        )
        for row in rows
    ]
