"""People: a personal credential (a passphrase, Argon2id), a role, and a label that they may see.

`Passphrases` is the one class through which a name becomes a `Person`; another identity provider
(OIDC, say) is another class with its `sign_in`.
"""

import threading

import argon2
import msgspec
import sqlalchemy as sa

from appliance.control.identity import Person
from appliance.core import audit
from appliance.core.database import Database
from appliance.core.errors import (
    ConflictError,
    LockedOutError,
    NotFoundError,
    SignInError,
    UsageError,
)
from appliance.core.tables import failed_sign_ins, sessions, tokens, users
from policies.access import Act, Role
from policies.labels import parse_label
from policies.lockout import forgotten_after_s, wait_s

MIN_PASSPHRASE = 12
MAX_PASSPHRASE = 1024

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

    def sign_in(self, *, name: str, passphrase: str, at: float) -> Person:
        """The person whose passphrase this is.

        Raises:
            LockedOutError: too many wrong ones in a row; says how long to wait.
            SignInError: no such person, or not their passphrase (the message does not say which).
        """
        # No passphrase of ours is longer, and hashing a long one would be work for a stranger.
        if len(passphrase) > MAX_PASSPHRASE:
            raise SignInError(_WRONG, next_step=_AGAIN)
        with self._one_at_a_time:
            self._require_patience(name, at)
            with self._database.read() as connection:
                row = connection.execute(
                    sa.select(users).where(users.c.name == name, users.c.ended_at.is_(None))
                ).first()
            right = _is_right(row.passphrase_hash if row else _NOBODY, passphrase)
            if row is None or not right:
                self._note_failure(name, at)
                raise SignInError(_WRONG, next_step=_AGAIN)
        self._forget_failures(name)
        return Person(name=name, role=row.role, label=row.label, fresh=True)

    def _require_patience(self, name: str, at: float) -> None:
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(failed_sign_ins).where(failed_sign_ins.c.name == name)
            ).first()
        if row is None:
            return
        left = row.last_at + wait_s(row.num_failed) - at
        if left > 0:
            raise LockedOutError(
                f"{row.num_failed} wrong passphrases for this name: try again in {left:.0f} s",
                next_step="wait, then give the right one; an admin can give you a new one",
            )

    def _note_failure(self, name: str, at: float) -> None:
        f = failed_sign_ins.c
        with self._database.write() as connection:
            connection.execute(
                sa.delete(failed_sign_ins).where(f.last_at < at - forgotten_after_s())
            )
            num = connection.scalar(sa.select(f.num_failed).where(f.name == name)) or 0
            connection.execute(sa.delete(failed_sign_ins).where(f.name == name))
            row = {"name": name, "num_failed": num + 1, "last_at": at}
            connection.execute(sa.insert(failed_sign_ins).values(row))
            if wait_s(num + 1) > wait_s(num):
                audit.record(
                    connection, actor=f"name:{name}", act="sign_in.locked", subject=name, at=at,
                    num_failed=num + 1, wait_s=wait_s(num + 1),
                )  # fmt: skip

    def _forget_failures(self, name: str) -> None:
        known = sa.select(failed_sign_ins.c.name).where(failed_sign_ins.c.name == name)
        with self._database.read() as connection:
            if connection.scalar(known) is None:
                return
        with self._database.write() as connection:
            connection.execute(sa.delete(failed_sign_ins).where(failed_sign_ins.c.name == name))


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
    # HTTP Basic ends the name at the first colon.
    if not name.isprintable() or name.strip() != name or not name or len(name) > 64 or ":" in name:
        raise UsageError(f"a person's name is 1 to 64 printable characters, no colon, got {name!r}")
    row = {
        "name": name,
        "passphrase_hash": hash_passphrase(passphrase),
        "role": role,
        "label": label,
        "created_at": at,
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
            connection.execute(sa.delete(failed_sign_ins).where(failed_sign_ins.c.name == name))
        if ended:
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


def everybody(database: Database) -> list[Listed]:
    """Everybody who ever could sign in, by name."""
    fields = Listed.__struct_fields__
    query = sa.select(*(users.c[name] for name in fields)).order_by(users.c.name)
    with database.read() as connection:
        rows = connection.execute(query).all()
    return [Listed(**row._mapping) for row in rows]


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
        raise UsageError(f"role must be one of {', '.join(Role)}, got {role!r}")


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
