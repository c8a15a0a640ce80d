"""Suites as people see them: what is in force, and its items. Their past: suite_history.py.

A suite's items may quote what agents were asked, so they have the endpoint's label.
"""

from functools import lru_cache
from typing import Any

import msgspec
import sqlalchemy as sa

from appliance.control.identity import Person
from appliance.control.law import REPEALED
from appliance.control.steps import Ground
from appliance.core.digests import Digest
from appliance.core.errors import ForbiddenError, IntegrityError, NotFoundError
from appliance.core.objects import ObjectStore
from appliance.core.records import Item, decode
from appliance.core.tables import law, proposals
from policies.access import Act
from policies.suites import needs_approver

PAGE = 50


class Held(msgspec.Struct, frozen=True):
    """A version's first line and the lines of its items."""

    suite: str
    kind: str
    lines: tuple[bytes, ...]


class SuiteLine(msgspec.Struct, frozen=True, kw_only=True):
    """One suite in force."""

    name: str
    """The article's name, which the law and these pages go by."""
    suite: str
    """The name in its first line, which reviews show."""
    kind: str
    num_items: int
    object: Digest
    owner: str
    """Who first put it in force."""
    since: float
    actor: str
    """Who changed it last."""
    at: float
    accepted_by: str | None
    open_proposals: list[int]

    @property
    def pair(self) -> tuple[str, str]:
        """For a list to choose from."""
        told = f"{self.kind}, a change takes an approver" if self.takes_approver else self.kind
        return self.name, f"{self.name} ({told})"

    @property
    def takes_approver(self) -> bool:
        """Whether a change of it is proposed, not made."""
        return needs_approver(self.kind)


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """One item, and its place in the suite, from 1."""

    place: int
    item_id: str
    family: str
    language: str
    messages: tuple[Any, ...]
    check: Any
    max_tokens: int


def in_force(ground: Ground, person: Person) -> list[SuiteLine]:
    """Every suite in force, by name."""
    person.require(Act.VIEW)
    mine = law.c.kind == "suite"
    last = sa.select(sa.func.max(law.c.sequence)).where(mine).group_by(law.c.name)
    now = sa.select(law).where(law.c.sequence.in_(last), law.c.object != REPEALED)
    repealed = (
        sa.select(law.c.name, sa.func.max(law.c.sequence).label("end"))
        .where(mine, law.c.object == REPEALED)
        .group_by(law.c.name)
        .subquery()
    )
    first = (
        sa.select(sa.func.min(law.c.sequence))
        .join(repealed, repealed.c.name == law.c.name, isouter=True)
        .where(mine, law.c.sequence > sa.func.coalesce(repealed.c.end, 0))
        .group_by(law.c.name)
    )
    owners = sa.select(law.c.name, law.c.actor, law.c.at).where(law.c.sequence.in_(first))
    waiting = sa.select(proposals.c.name, proposals.c.number).where(proposals.c.state == "open")
    with ground.database.read() as connection:
        rows = connection.execute(now.order_by(law.c.name)).all()
        began = {row.name: row for row in connection.execute(owners)}
        open_ = connection.execute(waiting.order_by(proposals.c.number)).all()
    return [
        _line(ground, row, began[row.name], [one.number for one in open_ if one.name == row.name])
        for row in rows
    ]


def one(ground: Ground, person: Person, name: str) -> SuiteLine:
    """One suite in force.

    Raises:
        NotFoundError: none of that name is.
    """
    for line in in_force(ground, person):
        if line.name == name:
            return line
    raise NotFoundError(f"no suite named {name[:100]} is in force", next_step="see /suites")


def items(ground: Ground, person: Person, name: str, *, after: int = 0) -> list[Shown]:
    """Up to `PAGE` items of the version in force, from place `after` + 1 on.

    Raises:
        NotFoundError: no such suite.
        ForbiddenError: the endpoint's label is above the person's.
    """
    held = read(ground, person, one(ground, person, name).object)
    after = max(after, 0)
    return [shown(after + at, line) for at, line in enumerate(held.lines[after : after + PAGE])]


def item(ground: Ground, person: Person, name: str, item_id: str) -> Shown:
    """One item of the version in force.

    Raises:
        NotFoundError, ForbiddenError: as for `items`, or no such item.
    """
    held = read(ground, person, one(ground, person, name).object)
    for at, line in enumerate(held.lines):
        if id_of(line) == item_id:
            return shown(at, line)
    raise NotFoundError(f"no item {item_id[:100]} in suite {name}", next_step="see the suite")


class _Id(msgspec.Struct):
    item_id: str


class _Head(msgspec.Struct):
    suite: str = ""
    kind: str = ""


def _line(ground: Ground, row: Any, began: Any, open_: list[int]) -> SuiteLine:
    try:
        held = held_in(ground.store, row.object)
    except (NotFoundError, IntegrityError):
        # One that is damaged on disk must not take the others with it.
        held = Held(row.name, "damaged", ())
    return SuiteLine(
        name=row.name,
        suite=held.suite,
        kind=held.kind,
        num_items=len(held.lines),
        object=Digest(row.object),
        owner=began.actor,
        since=began.at,
        actor=row.actor,
        at=row.at,
        accepted_by=row.accepted_by,
        open_proposals=open_,
    )


def read(ground: Ground, person: Person, version: str) -> Held:
    """What a version holds, for this person.

    Raises:
        ForbiddenError: the endpoint's label is above the person's.
    """
    label = ground.settings.gateway.label
    if not person.sees(label):
        raise ForbiddenError(
            f"the items of suites have the endpoint's label, {label}; yours is {person.label}",
            next_step="somebody who manages people can raise your label",
        )
    return held_in(ground.store, version)


# Versions never change, so what was read of one stays true.
@lru_cache(16)
def held_in(store: ObjectStore, version: str) -> Held:
    """What a version holds."""
    if version == REPEALED:
        return Held("", "", ())
    head, *rest = store.get(Digest(version)).splitlines()
    named = msgspec.json.decode(head, type=_Head)
    return Held(named.suite, named.kind, tuple(line for line in rest if line.strip()))


def id_of(line: bytes) -> str:
    """The item's id in a line."""
    return msgspec.json.decode(line, type=_Id).item_id


def shown(at: int, line: bytes) -> Shown:
    """The item in the line at this index."""
    found = decode(line, Item)
    return Shown(
        place=at + 1,
        item_id=found.item_id,
        family=found.family,
        language=found.language,
        messages=found.messages,
        check=found.check,
        max_tokens=found.max_tokens,
    )
