"""Pause and kill: who may not ask now. For a fleet that runs wild.

A pause refuses new requests; a kill also ends those under way (under_way.py). Both last until they
are resumed. The gateway reads them again every second, and at once when it is told to.
"""

import time
from typing import Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from appliance.core import audit
from appliance.core.database import Database
from appliance.core.errors import NotFoundError, UsageError
from appliance.core.tables import pauses
from serving.keys import Key, Scope, require_good, require_known


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """Who stopped what, why and since when."""

    scope: Scope
    killed: bool
    """Requests under way were ended too."""
    actor: str
    reason: str
    at: float

    @property
    def act(self) -> Literal["paused", "killed"]:
        """What was done."""
        return "killed" if self.killed else "paused"

    @property
    def message(self) -> str:
        """What the agents are told."""
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.at))
        return f"{self.scope} was {self.act} by {self.actor}, since {since}: {self.reason}"


def pause(database: Database, scope: Scope, *, killed: bool, actor: str, reason: str) -> Pause:
    """Stop this key, agent or team. Again changes who, why and how hard.

    Raises:
        UsageError: no reason is given.
        NotFoundError: no key is of this scope.
        ConflictError: it is to be paused, and is a key that was revoked.
    """
    if not reason.strip():
        raise UsageError("expected a reason, got none", next_step="--reason TEXT")
    made = Pause(scope=scope, killed=killed, actor=actor, reason=reason, at=time.time())
    with database.write() as connection:
        # A revoked key may still have answers under way, which a kill ends.
        (require_known if killed else require_good)(connection, scope)
        audit.record(
            connection, actor=actor, act="key.kill" if killed else "key.pause", at=made.at,
            subject=str(scope), reason=reason,
        )  # fmt: skip
        row = {"killed": killed, "actor": actor, "reason": reason, "at": made.at}
        connection.execute(
            insert(pauses)
            .values(kind=scope.kind, name=scope.name, **row)
            .on_conflict_do_update(index_elements=["kind", "name"], set_=row)
        )
    return made


def resume(database: Database, scope: Scope, *, actor: str, reason: str) -> None:
    """Undo a pause or a kill.

    Raises:
        NotFoundError: it is not paused.
    """
    here = (pauses.c.kind == scope.kind, pauses.c.name == scope.name)
    with database.write() as connection:
        if connection.scalar(sa.select(pauses.c.name).where(*here)) is None:
            raise NotFoundError(f"{scope} is not paused", next_step="espalier key usage")
        audit.record(
            connection, actor=actor, act="key.resume", at=time.time(), subject=str(scope),
            reason=reason,
        )  # fmt: skip
        connection.execute(sa.delete(pauses).where(*here))


def list_pauses(database: Database) -> list[Pause]:
    """What is stopped now, longest first."""
    with database.read() as connection:
        rows = connection.execute(sa.select(pauses).order_by(pauses.c.at)).all()
    return [
        Pause(
            scope=Scope(row.kind, row.name),
            killed=row.killed,
            actor=row.actor,
            reason=row.reason,
            at=row.at,
        )
        for row in rows
    ]


class Pauses:
    """What is stopped now, in memory."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._by_scope: dict[Scope, Pause] = {}
        self.reload()

    def reload(self) -> None:
        """Read them again."""
        self._by_scope = {found.scope: found for found in list_pauses(self._database)}

    def of(self, key: Key) -> Pause | None:
        """What stops this key, a kill before a pause; None where nothing does."""
        if not self._by_scope:
            return None
        found = [self._by_scope[scope] for scope in key.scopes if scope in self._by_scope]
        return max(found, key=lambda pause: pause.killed, default=None)
