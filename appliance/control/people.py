"""People: a personal credential (a passphrase, Argon2id), a role, and a label that they may see.

`Passphrases` is the one class through which a name becomes a `Person`; another identity provider
(OIDC, say) is another class with its `sign_in`.
"""

import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

import argon2
import msgspec
import sqlalchemy as sa

from appliance.control.identity import Person
from appliance.core import audit
from appliance.core.database import Database
from appliance.core.errors import (
    ConflictError,
    ForbiddenError,
    LockedOutError,
    NotFoundError,
    SignInError,
    UnavailableError,
    UsageError,
)
from appliance.core.tables import failed_sign_ins, sessions, tokens, users
from policies.access import Act, Role
from policies.labels import parse_label
from policies.lockout import forgotten_after_s, wait_s

MIN_PASSPHRASE = 12
MAX_PASSPHRASE = 1024
MAX_NAME = 64
_AT_THE_DOOR = 8
_OURS = frozenset({"espalier", "system", "command line"})
"""Actors in the audit log that are nobody."""

_WRONG = "the name or the passphrase is wrong"
_AGAIN = "give your own: --as NAME, and --passphrase-file, $ESPALIER_PASSPHRASE or the prompt"

# The memory-constrained parameters of RFC 9106, section 4; about 60 ms on one core.
_HASHER = argon2.PasswordHasher(time_cost=3, memory_cost=64 * 1024, parallelism=1)

# Checked when the name is unknown, so that a stranger cannot tell names by timing.
_NOBODY = _HASHER.hash("no such person")


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A person as others see them."""

    name: str
    role: str
    label: str
    created_at: float
    ended_at: float | None


class Passphrases:
    """Signs people in by name and passphrase; slower and slower after wrong ones."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Each hash takes 64 MiB, so a crowd at the door waits; and of many guesses at once each one
        # is counted before the next is looked at.
        self._one_at_a_time = threading.Lock()
        self._waiting = threading.BoundedSemaphore(_AT_THE_DOOR)

    def sign_in(self, *, name: str, passphrase: str, at: float, source: str = "") -> Person:
        """The person whose passphrase this is.

        Wrong ones count for the name and `source` together (an address, a session): a stranger
        elsewhere locks himself out, not the owner of the name.

        Raises:
            LockedOutError: too many wrong ones in a row; says how long to wait.
            UnavailableError: a crowd is at the door.
            SignInError: no such person, or not their passphrase (the message does not say which).
        """
        # Nobody has such a name or passphrase, and to keep or hash it would be work for a stranger.
        if len(passphrase) > MAX_PASSPHRASE or len(name) > MAX_NAME:
            raise SignInError(_WRONG, next_step=_AGAIN)
        key = f"{name}\0{source}"
        with self._in_turn():
            self._require_patience(key, at)
            with self._database.read() as connection:
                row = connection.execute(
                    sa.select(users).where(users.c.name == name, users.c.ended_at.is_(None))
                ).first()
            right = _is_right(row.passphrase_hash if row else _NOBODY, passphrase)
            if row is None or not right:
                self._note_failure(key, at, known=row is not None)
                raise SignInError(_WRONG, next_step=_AGAIN)
        self._forget_failures(key)
        return Person(name=name, role=row.role, label=row.label, fresh=True)

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """One hash at a time, and few who wait for theirs: each holds a thread meanwhile."""
        if not self._waiting.acquire(blocking=False):
            raise UnavailableError("too many people sign in just now", next_step="try again")
        try:
            with self._one_at_a_time:
                yield
        finally:
            self._waiting.release()

    def _require_patience(self, key: str, at: float) -> None:
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(failed_sign_ins).where(failed_sign_ins.c.name == key)
            ).first()
        if row is None:
            return
        left = row.last_at + wait_s(row.num_failed) - at
        if left > 0:
            raise LockedOutError(
                f"{row.num_failed} wrong passphrases for this name: try again in {left:.0f} s",
                next_step="wait, then give the right one; an admin can give you a new one",
            )

    def _note_failure(self, key: str, at: float, *, known: bool) -> None:
        f = failed_sign_ins.c
        name, _, source = key.partition("\0")
        with self._database.write() as connection:
            connection.execute(
                sa.delete(failed_sign_ins).where(f.last_at < at - forgotten_after_s())
            )
            num = connection.scalar(sa.select(f.num_failed).where(f.name == key)) or 0
            connection.execute(sa.delete(failed_sign_ins).where(f.name == key))
            row = {"name": key, "num_failed": num + 1, "last_at": at}
            connection.execute(sa.insert(failed_sign_ins).values(row))
            if known and wait_s(num + 1) > wait_s(num):
                audit.record(
                    connection, actor=f"name:{name}", act="sign_in.locked", subject=name, at=at,
                    num_failed=num + 1, wait_s=wait_s(num + 1), source=source,
                )  # fmt: skip

    def _forget_failures(self, key: str) -> None:
        known = sa.select(failed_sign_ins.c.name).where(failed_sign_ins.c.name == key)
        with self._database.read() as connection:
            if connection.scalar(known) is None:
                return
        with self._database.write() as connection:
            connection.execute(sa.delete(failed_sign_ins).where(failed_sign_ins.c.name == key))


def _is_right(kept: str, passphrase: str) -> bool:
    try:
        return bool(_HASHER.verify(kept, passphrase))
    except argon2.exceptions.VerifyMismatchError:
        return False


def add(
    database: Database,
    *,
    name: str,
    role: str,
    passphrase: str,
    actor: str,
    at: float,
    label: str = "internal",
) -> None:
    """Make a person.

    Raises:
        UsageError: an unknown role, a name that nobody could sign in with, or a passphrase that is
            too short or too long.
        PolicyError: not a label.
        ConflictError: the name is taken, also by somebody who left.
    """
    require_role(role)
    parse_label(label)
    _require_name(database, name)
    row = {
        "name": name,
        "passphrase_hash": hash_passphrase(passphrase),
        "role": role,
        "label": label,
        "created_at": at,
        "changed_at": at,
    }
    with database.write() as connection:
        audit.record(
            connection, actor=actor, act="user.add", subject=name, at=at, role=role, label=label
        )
        try:
            connection.execute(sa.insert(users).values(row))
        except sa.exc.IntegrityError as error:
            raise ConflictError(f"there is already a person named {name}") from error


def change(
    database: Database,
    *,
    name: str,
    actor: str,
    at: float,
    role: str | None = None,
    label: str | None = None,
    passphrase: str | None = None,
    ended: bool | None = None,
) -> Listed:
    """Change what is given. A change ends the person's sessions; a new passphrase the lock-out too.

    Raises:
        NotFoundError: nobody has that name.
        UsageError, PolicyError: the role, the label or the passphrase is none.
        ConflictError: nobody would be left who may manage people.
    """
    values: dict[str, str | float | None] = {}
    if role is not None:
        require_role(role)
        values["role"] = role
    if label is not None:
        parse_label(label)
        values["label"] = label
    shown = dict(values)
    if ended is not None:
        values["ended_at"] = at if ended else None
        shown["ended"] = ended
    if passphrase is not None:
        values["passphrase_hash"] = hash_passphrase(passphrase)
        shown["passphrase"] = "new"  # noqa: S105 # says that there is one
    if not values:
        raise UsageError("say what to change: role, label, passphrase, or whether it is ended")
    values["changed_at"] = at
    with database.write() as connection:
        audit.record(connection, actor=actor, act="user.change", subject=name, at=at, **shown)
        found = connection.execute(
            sa.update(users).where(users.c.name == name).values(values)
        ).rowcount
        if not found:
            raise NotFoundError(f"nobody is named {name!r}", next_step="espalier user list")
        admins = connection.scalar(
            sa.select(sa.func.count())
            .select_from(users)
            .where(users.c.role == Role.ADMIN, users.c.ended_at.is_(None))
        )
        if not admins:
            raise ConflictError(
                f"{name} is the last admin: nobody could manage people any more",
                next_step="make somebody else an admin first",
            )
        connection.execute(sa.delete(sessions).where(sessions.c.name == name))
        if passphrase is not None:
            mine = failed_sign_ins.c.name.startswith(f"{name}\0", autoescape=True)
            connection.execute(sa.delete(failed_sign_ins).where(mine))
        # Whoever had the old passphrase may have made tokens with it.
        if ended or passphrase is not None:
            connection.execute(
                sa.update(tokens)
                .where(tokens.c.name == name, tokens.c.revoked_at.is_(None))
                .values(revoked_at=at)
            )
    return get(database, name)


def get(database: Database, name: str) -> Listed:
    """One person.

    Raises:
        NotFoundError: nobody has that name.
    """
    for person in everybody(database):
        if person.name == name:
            return person
    raise NotFoundError(f"nobody is named {name!r}", next_step="espalier user list")


def _require_name(database: Database, name: str) -> None:
    """Raise unless nobody could be taken for anybody else by it.

    Raises:
        UsageError: HTTP Basic, an address or a reader could not tell it apart.
        ConflictError: it looks like a name that is taken.
    """
    good = name.isprintable() and name.strip() == name and 0 < len(name) <= MAX_NAME
    if not good or set(name) & set(":/\\") or name in (".", "..") or name.casefold() in _OURS:
        raise UsageError(
            "a person's name is 1 to 64 printable characters, without : / and \\, and not one of "
            f"{', '.join(sorted(_OURS))}; got {name[:80]!r}"
        )
    for one in everybody(database):
        if one.name != name and _looks(one.name) == _looks(name):
            raise ConflictError(f"{name} looks like {one.name}, who is there already")


def _looks(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def everybody(database: Database) -> list[Listed]:
    """Everybody who ever could sign in, by name."""
    fields = Listed.__struct_fields__
    query = sa.select(*(users.c[name] for name in fields)).order_by(users.c.name)
    with database.read() as connection:
        rows = connection.execute(query).all()
    return [Listed(**row._mapping) for row in rows]


def require_still(connection: sa.Connection, person: Person) -> None:
    """Raise unless role and label are, in this transaction, what they were at the sign-in.

    Raises:
        ForbiddenError: somebody changed or ended them in between.
    """
    query = sa.select(users.c.role, users.c.label, users.c.ended_at)
    row = connection.execute(query.where(users.c.name == person.name)).first()
    if row is None or row.ended_at is not None or (row.role, row.label) != (
        person.role, person.label,
    ):  # fmt: skip
        raise ForbiddenError(
            f"what {person.name} may do has changed just now", next_step="sign in again"
        )


def count(database: Database) -> int:
    """How many people there are."""
    with database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(users)).scalar_one()


def hash_passphrase(passphrase: str) -> str:
    """What is kept of a passphrase.

    Raises:
        UsageError: it is too short or too long.
    """
    if not MIN_PASSPHRASE <= len(passphrase) <= MAX_PASSPHRASE:
        raise UsageError(
            f"a passphrase has {MIN_PASSPHRASE} to {MAX_PASSPHRASE} characters, "
            f"got {len(passphrase)}"
        )
    return _HASHER.hash(passphrase)


def require_role(role: str) -> None:
    """Raise unless there is such a role.

    Raises:
        UsageError: there is not.
    """
    if role not in list(Role):
        raise UsageError(
            f"role must be one of {', '.join(Role)}, got {role!r}",
            next_step="viewer reads, operator makes rounds, approver signs, admin adds people",
        )


def acts_of(names: list[str]) -> frozenset[str]:
    """The acts of these names, for a token.

    Raises:
        UsageError: one is none, or none is named.
    """
    unknown = [name for name in names if name not in list(Act)]
    if unknown or not names:
        raise UsageError(
            f"a token names what it may do, of: {', '.join(Act)}; got {', '.join(unknown) or '-'}"
        )
    return frozenset(names)
