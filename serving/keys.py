"""Agents' keys: who a request is from, and what it may address.

A key is 256 random bits; the database holds only its SHA-256. The gateway keeps all keys in memory
and reads them again every second, so adding and revoking need no restart.
"""

import secrets
import time
from typing import Literal, NamedTuple

import msgspec
import sqlalchemy as sa

from appliance.core import audit
from appliance.core.database import Database
from appliance.core.digests import hash_key
from appliance.core.errors import ConflictError, NotFoundError, UsageError
from appliance.core.names import MAX_NAME, is_name
from appliance.core.records import Who
from appliance.core.tables import keys
from policies.labels import parse_label

PREFIX = "esp-"


class Scope(NamedTuple):
    """What a limit or a pause is set on: one key, or all keys of an agent or of a team."""

    kind: Literal["key", "agent", "team"]
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key without its secret."""

    key_id: str
    team: str
    project: str
    agent: str
    label: str
    exact: bool
    """May address ``alias@sha256:…``, ``alias@17`` and ``alias@base``."""
    metrics: bool = False
    """May read ``/metrics``."""
    created_at: float
    revoked_at: float | None = None

    @property
    def who(self) -> Who:
        """What a turn says about the key's owner."""
        return Who(key_id=self.key_id, team=self.team, project=self.project, agent=self.agent)

    @property
    def scopes(self) -> tuple[Scope, Scope, Scope]:
        """Whose limits and pauses hold for it."""
        return Scope("key", self.key_id), Scope("agent", self.agent), Scope("team", self.team)


def add_key(
    database: Database,
    *,
    team: str,
    project: str,
    agent: str,
    label: str,
    exact: bool,
    actor: str,
    metrics: bool = False,
) -> tuple[str, Key]:
    """Make a key. Its secret is returned once and stored nowhere.

    Raises:
        UsageError: team, project or agent is no name.
        PolicyError: `label` is not a label.
    """
    for what, name in (("team", team), ("project", project), ("agent", agent)):
        if not is_name(name):
            raise UsageError(
                f"a {what} has 1 to {MAX_NAME} printable characters, none of them a space at an "
                f"end; got {name[: MAX_NAME + 1]!r}",
                next_step=f"espalier key add --{what} NAME",
            )
    parse_label(label)
    secret = PREFIX + secrets.token_urlsafe(32)
    now = time.time()
    key = Key(
        key_id="key-" + secrets.token_hex(6),
        team=team,
        project=project,
        agent=agent,
        label=label,
        exact=exact,
        metrics=metrics,
        created_at=now,
    )
    with database.write() as connection:
        audit.record(
            connection, actor=actor, act="key.add", subject=key.key_id, at=now, team=team,
            project=project, agent=agent, label=label, exact=exact,
            metrics=metrics,
        )  # fmt: skip
        row = msgspec.structs.asdict(key)
        connection.execute(sa.insert(keys).values(**row, key_hash=hash_key(secret)))
    return secret, key


def list_keys(database: Database) -> list[Key]:
    """Every key ever made, revoked ones too, oldest first."""
    return [key for _, key in _rows(database)]


def revoke_key(database: Database, key_id: str, *, actor: str) -> None:
    """Make a key worthless. Twice is once.

    Raises:
        NotFoundError: no such key.
    """
    with database.write() as connection:
        require_known(connection, Scope("key", key_id))
        now = time.time()
        audit.record(connection, actor=actor, act="key.revoke", subject=key_id, at=now)
        connection.execute(
            sa.update(keys)
            .where(keys.c.key_id == key_id, keys.c.revoked_at.is_(None))
            .values(revoked_at=now)
        )


def require_known(connection: sa.Connection, scope: Scope) -> None:
    """Raise unless some key is of this scope: a wrong name would hold for nobody, quietly.

    Raises:
        NotFoundError: no key is.
    """
    column = {"key": keys.c.key_id, "agent": keys.c.agent, "team": keys.c.team}[scope.kind]
    if connection.scalar(sa.select(keys.c.key_id).where(column == scope.name).limit(1)) is None:
        raise NotFoundError(f"no key is of {scope}", next_step="espalier key list")


def require_good(connection: sa.Connection, scope: Scope) -> None:
    """Raise where it is a key that was revoked: what is set on it would hold for nothing.

    Raises:
        NotFoundError: no key is of this scope.
        ConflictError: it was revoked.
    """
    require_known(connection, scope)
    if scope.kind != "key":
        return
    revoked_at = connection.scalar(sa.select(keys.c.revoked_at).where(keys.c.key_id == scope.name))
    if revoked_at is not None:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(revoked_at))
        raise ConflictError(
            f"{scope} was revoked, since {since}: it may ask nothing any more",
            next_step="espalier key add makes another; key kill ends what this one has under way",
        )


class KeyRing:
    """The keys that are good now, in memory."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._by_hash: dict[str, Key] = {}
        self.reload()

    def reload(self) -> None:
        """Read the keys again."""
        self._by_hash = {
            found: key for found, key in _rows(self._database) if key.revoked_at is None
        }

    def find(self, secret: str) -> Key | None:
        """The key that this secret is, if it is one and is not revoked."""
        return self._by_hash.get(hash_key(secret))


def _rows(database: Database) -> list[tuple[str, Key]]:
    with database.read() as connection:
        rows = connection.execute(sa.select(keys).order_by(keys.c.created_at)).all()
    fields = Key.__struct_fields__
    return [(row.key_hash, Key(**{name: getattr(row, name) for name in fields})) for row in rows]
