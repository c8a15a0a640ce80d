"""Managing people, and what everybody does with their own credential."""

import time

import msgspec

from appliance.control import people, tokens
from appliance.control.identity import Person
from appliance.control.people import Listed
from appliance.control.steps import Ground
from appliance.control.tokens import Token
from appliance.core.errors import ConflictError
from policies.access import Act


class NewPerson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A person to be made."""

    name: str
    role: str
    passphrase: str
    label: str = "internal"


class Change(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be another about a person; None stays as it is."""

    role: str | None = None
    label: str | None = None
    passphrase: str | None = None
    ended: bool | None = None


class NewToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token to be made."""

    purpose: str
    acts: list[str]
    days: float = 30.0


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """A new token, with its secret: shown once."""

    secret: str
    token: Token


def add(ground: Ground, person: Person, ask: NewPerson) -> Listed:
    """Make somebody who can sign in."""
    person.require(Act.MANAGE_PEOPLE)
    people.add(
        ground.database,
        name=ask.name,
        role=ask.role,
        label=ask.label,
        passphrase=ask.passphrase,
        actor=person.name,
        at=time.time(),
    )
    return people.get(ground.database, ask.name)


def change(ground: Ground, person: Person, name: str, ask: Change) -> Listed:
    """Change somebody else's role, label or passphrase, or end their access.

    Raises:
        ConflictError: it is oneself (a slip would lock everybody out), or the last admin.
    """
    person.require(Act.MANAGE_PEOPLE)
    if name == person.name:
        raise ConflictError(
            "an admin is changed by another admin",
            next_step="your own passphrase is changed on your account",
        )
    return people.change(
        ground.database, name=name, actor=person.name, at=time.time(),
        role=ask.role, label=ask.label, passphrase=ask.passphrase, ended=ask.ended,
    )  # fmt: skip


def change_own_passphrase(ground: Ground, person: Person, new: str) -> Listed:
    """A new passphrase of one's own. Every session of that person ends with it.

    Raises:
        SignatureError: the old one did not come with the request.
    """
    person.require_fresh("a new passphrase")
    return people.change(
        ground.database, name=person.name, actor=person.name, at=time.time(), passphrase=new
    )


def issue_token(ground: Ground, person: Person, ask: NewToken) -> Issued:
    """A token for one's own programs."""
    person.require_fresh("a new token")
    secret, token = tokens.issue(
        ground.database, person, purpose=ask.purpose, acts=ask.acts, days=ask.days, at=time.time()
    )
    return Issued(secret=secret, token=token)


def revoke_token(ground: Ground, person: Person, token_id: str) -> None:
    """Make one of one's own tokens worthless."""
    tokens.revoke(ground.database, person, token_id, at=time.time())
