"""People: a personal credential (a passphrase, Argon2id) and a role."""

import argon2
import sqlalchemy as sa

from appliance.core import audit
from appliance.core.database import Database
from appliance.core.errors import ConflictError, SignInError, UsageError
from appliance.core.tables import users
from policies.access import Role

MIN_PASSPHRASE = 12

_WRONG = "the name or the passphrase is wrong"
_AGAIN = "give your own: --as NAME, and --passphrase-file, $ESPALIER_PASSPHRASE or the prompt"

# The memory-constrained parameters of RFC 9106, section 4; about 60 ms on one core.
_HASHER = argon2.PasswordHasher(time_cost=3, memory_cost=64 * 1024, parallelism=1)

# Checked when the name is unknown, so that a stranger cannot tell names by timing.
_NOBODY = _HASHER.hash("no such person")


def add(
    database: Database, *, name: str, role: str, passphrase: str, actor: str, at: float
) -> None:
    """Make a person.

    Raises:
        UsageError: an unknown role, a name that nobody could sign in with, or a passphrase below
            12 characters.
        ConflictError: the name is taken.
    """
    if role not in list(Role):
        raise UsageError(f"role must be one of {', '.join(Role)}, got {role!r}")
    # HTTP Basic ends the name at the first colon.
    if not name.isprintable() or not name.strip() or len(name) > 64 or ":" in name:
        raise UsageError(f"a person's name is 1 to 64 printable characters, no colon, got {name!r}")
    if len(passphrase) < MIN_PASSPHRASE:
        raise UsageError(
            f"a passphrase has at least {MIN_PASSPHRASE} characters, got {len(passphrase)}"
        )
    row = {
        "name": name,
        "passphrase_hash": _HASHER.hash(passphrase),
        "role": role,
        "created_at": at,
    }
    with database.write() as connection:
        audit.record(connection, actor=actor, act="user.add", subject=name, at=at, role=role)
        try:
            connection.execute(sa.insert(users).values(row))
        except sa.exc.IntegrityError as error:
            raise ConflictError(f"there is already a person named {name}") from error


def count(database: Database) -> int:
    """How many people there are."""
    with database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(users)).scalar_one()


def sign_in(database: Database, *, name: str, passphrase: str) -> Role:
    """The role of the person whose passphrase this is.

    Raises:
        SignInError: no such person, or not their passphrase (the message does not say which).
    """
    with database.read() as connection:
        row = connection.execute(sa.select(users).where(users.c.name == name)).first()
    try:
        _HASHER.verify(row.passphrase_hash if row else _NOBODY, passphrase)
    except argon2.exceptions.VerifyMismatchError as error:
        raise SignInError(_WRONG, next_step=_AGAIN) from error
    if row is None:
        raise SignInError(_WRONG, next_step=_AGAIN)
    return Role(row.role)
