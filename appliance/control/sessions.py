"""Who is signed in to the console: server-side sessions behind a random cookie."""

import secrets
from typing import Any

import msgspec
import sqlalchemy as sa

from appliance.control.identity import Person
from appliance.core import audit
from appliance.core.database import Database
from appliance.core.digests import hash_key
from appliance.core.tables import sessions, users

_TOUCH_S = 60.0
"""How stale `seen_at` may be: a read must not cost a write each time."""


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A person in front of a browser."""

    person: Person
    csrf: str
    created_at: float


class Sessions:
    """The table of sessions. `idle_s` and `most_s` end them."""

    def __init__(self, database: Database, *, idle_s: float, most_s: float) -> None:
        self._database = database
        self._idle_s, self._most_s = idle_s, most_s

    def open(self, person: Person, *, at: float) -> str:
        """Sign a person in; returns the cookie's secret, which is stored nowhere."""
        secret = secrets.token_urlsafe(32)
        row = {
            "session_hash": hash_key(secret),
            "name": person.name,
            "csrf": secrets.token_urlsafe(32),
            "created_at": at,
            "seen_at": at,
        }
        with self._database.write() as connection:
            audit.record(
                connection, actor=person.name, act="session.open", subject=person.name, at=at
            )
            connection.execute(sa.delete(sessions).where(sessions.c.created_at < at - self._most_s))
            connection.execute(sa.insert(sessions).values(row))
        return secret

    def find(self, secret: str, *, at: float) -> Session | None:
        """The session of this cookie, unless it has ended, or its person may sign in no more."""
        query = (
            sa.select(sessions, users.c.role, users.c.label)
            .join(users, users.c.name == sessions.c.name)
            .where(sessions.c.session_hash == hash_key(secret), users.c.ended_at.is_(None))
        )
        with self._database.read() as connection:
            row = connection.execute(query).first()
        if row is None or not self._is_alive(row, at):
            return None
        if at - row.seen_at > _TOUCH_S:
            with self._database.write() as connection:
                connection.execute(
                    sa.update(sessions)
                    .where(sessions.c.session_hash == row.session_hash)
                    .values(seen_at=at)
                )
        person = Person(name=row.name, role=row.role, label=row.label)
        return Session(person=person, csrf=row.csrf, created_at=row.created_at)

    def close(self, secret: str, *, at: float) -> None:
        """Sign out: the cookie is worth nothing from here on."""
        digest = hash_key(secret)
        with self._database.write() as connection:
            name = connection.scalar(
                sa.select(sessions.c.name).where(sessions.c.session_hash == digest)
            )
            if name is not None:
                audit.record(connection, actor=name, act="session.close", subject=name, at=at)
                connection.execute(sa.delete(sessions).where(sessions.c.session_hash == digest))

    def _is_alive(self, row: Any, at: float) -> bool:
        return bool(
            0 <= at - row.created_at < self._most_s and 0 <= at - row.seen_at < self._idle_s
        )
