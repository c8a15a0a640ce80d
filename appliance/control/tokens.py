"""People's API tokens: for their programs, limited to some acts, for a while."""

import secrets

import msgspec
import sqlalchemy as sa

from appliance.control.identity import Person
from appliance.control.people import acts_of
from appliance.core import audit
from appliance.core.database import Database
from appliance.core.digests import hash_key
from appliance.core.errors import ForbiddenError, NotFoundError, SignInError, UsageError
from appliance.core.tables import tokens, users
from policies import access
from policies.access import SIGNATURES, Act

PREFIX = "espu-"
MAX_DAYS = 366.0


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token without its secret."""

    token_id: str
    name: str
    purpose: str
    acts: tuple[str, ...]
    created_at: float
    expires_at: float
    revoked_at: float | None


def issue(
    database: Database, person: Person, *, purpose: str, acts: list[str], days: float, at: float
) -> tuple[str, Token]:
    """Make a token for oneself. Its secret is returned once and stored nowhere.

    Raises:
        UsageError: no purpose, no acts, or a life that is not above 0 and at most 366 days.
        ForbiddenError: an act that the person may not do, or that needs a passphrase each time; or
            a token asks for a token.
    """
    if person.acts is not None:
        raise ForbiddenError("a token cannot make tokens", next_step="sign in with your passphrase")
    wanted = acts_of(acts)
    for act in sorted(wanted):
        access.require(person.role, Act(act))
    if signatures := sorted(wanted & SIGNATURES):
        raise ForbiddenError(
            f"a token cannot sign: {', '.join(signatures)}",
            next_step="leave those out; they ask for your passphrase each time",
        )
    if not 1 <= len(purpose.strip()) <= 200:
        raise UsageError("say what the token is for, in 1 to 200 characters")
    if not 0 < days <= MAX_DAYS:
        raise UsageError(f"a token lives above 0 and at most {MAX_DAYS:.0f} days, got {days:g}")
    secret = PREFIX + secrets.token_urlsafe(32)
    token = Token(
        token_id="token-" + secrets.token_hex(6),
        name=person.name,
        purpose=purpose.strip(),
        acts=tuple(sorted(wanted)),
        created_at=at,
        expires_at=at + days * 86_400,
        revoked_at=None,
    )
    row = {**msgspec.structs.asdict(token), "acts": msgspec.json.encode(token.acts).decode()}
    with database.write() as connection:
        audit.record(
            connection, actor=person.name, act="token.issue", subject=token.token_id, at=at,
            acts=list(token.acts), expires_at=token.expires_at,
        )  # fmt: skip
        connection.execute(sa.insert(tokens).values(**row, token_hash=hash_key(secret)))
    return secret, token


def of(database: Database, name: str) -> list[Token]:
    """A person's tokens, newest first."""
    query = sa.select(tokens).where(tokens.c.name == name).order_by(tokens.c.created_at.desc())
    with database.read() as connection:
        return [_token(row) for row in connection.execute(query).all()]


def revoke(database: Database, person: Person, token_id: str, *, at: float) -> None:
    """Make one of one's own tokens worthless. Twice is once.

    Raises:
        NotFoundError: the person has no such token.
    """
    own = (tokens.c.token_id == token_id) & (tokens.c.name == person.name)
    with database.write() as connection:
        if connection.scalar(sa.select(tokens.c.token_id).where(own)) is None:
            raise NotFoundError(f"you have no token {token_id!r}")
        audit.record(connection, actor=person.name, act="token.revoke", subject=token_id, at=at)
        connection.execute(
            sa.update(tokens).where(own, tokens.c.revoked_at.is_(None)).values(revoked_at=at)
        )


def bearer(database: Database, secret: str, *, at: float) -> Person:
    """Whose token this is, limited to what it may do.

    Raises:
        SignInError: it is none, it was revoked, or its time is over.
    """
    query = (
        sa.select(tokens, users.c.role, users.c.label)
        .join(users, users.c.name == tokens.c.name)
        .where(tokens.c.token_hash == hash_key(secret), users.c.ended_at.is_(None))
    )
    with database.read() as connection:
        row = connection.execute(query).first()
    if row is None or row.revoked_at is not None or not row.created_at <= at < row.expires_at:
        raise SignInError(
            "this token is not good, or not any more", next_step="make a new one on your account"
        )
    return Person(name=row.name, role=row.role, label=row.label, acts=frozenset(_token(row).acts))


def _token(row: sa.Row[tuple[object, ...]]) -> Token:
    values = {name: getattr(row, name) for name in Token.__struct_fields__}
    return Token(**{**values, "acts": tuple(msgspec.json.decode(values["acts"]))})
