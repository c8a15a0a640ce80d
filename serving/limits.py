"""What a key, an agent or a team may use: the numbers that were set. Who counts: quota.py."""

import time
from collections.abc import Mapping

import msgspec
import sqlalchemy as sa

from appliance.core import audit
from appliance.core.database import Database
from appliance.core.errors import UsageError
from appliance.core.tables import limits
from serving.keys import Scope, require_good


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """None is no limit. Of an agent or a team it is the sum over its keys."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    """Prompt and completion together, here and below."""
    tokens_per_day: float | None = None
    """UTC, as the month below."""
    tokens_per_month: float | None = None
    units_per_day: float | None = None
    """Money-like: ``[prices]`` in the settings, per million tokens."""
    units_per_month: float | None = None


def set_limits(
    database: Database, scope: Scope, changes: Mapping[str, float | None], *, actor: str
) -> Limits:
    """Change the limits that are named; None takes one away. Returns all that hold now.

    Raises:
        UsageError: an amount is not above zero, or no such limit.
        NotFoundError: no key is of this scope.
        ConflictError: it is a key that was revoked.
    """
    for name, amount in changes.items():
        if name not in Limits.__struct_fields__:
            known = ", ".join(Limits.__struct_fields__)
            raise UsageError(f"expected one of {known}, got {name!r}")
        if amount is not None and not 0 < amount < float("inf"):
            raise UsageError(
                f"expected {name} above 0, got {amount:g}",
                next_step=f"espalier key pause --{scope.kind} {scope.name} --reason TEXT",
            )
    here = (limits.c.kind == scope.kind, limits.c.name == scope.name)
    with database.write() as connection:
        require_good(connection, scope)
        audit.record(
            connection, actor=actor, act="key.limit", at=time.time(), subject=str(scope), **changes
        )
        connection.execute(sa.delete(limits).where(*here, limits.c.limit.in_(list(changes))))
        rows = [
            {"kind": scope.kind, "name": scope.name, "limit": name, "amount": amount}
            for name, amount in changes.items()
            if amount is not None
        ]
        if rows:
            connection.execute(sa.insert(limits), rows)
    return list_limits(database).get(scope, Limits())


def list_limits(database: Database) -> dict[Scope, Limits]:
    """Every limit that is set."""
    with database.read() as connection:
        rows = connection.execute(sa.select(limits).order_by(limits.c.kind, limits.c.name)).all()
    found: dict[Scope, dict[str, float]] = {}
    for row in rows:
        found.setdefault(Scope(row.kind, row.name), {})[row.limit] = row.amount
    return {scope: Limits(**amounts) for scope, amounts in found.items()}
