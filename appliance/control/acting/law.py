"""Changing the law that governs rounds. Whoever does it is an author of what it governs."""

import time

import msgspec

from appliance.control import law
from appliance.control.acting import suites
from appliance.control.acting.proposals import Proposed
from appliance.control.identity import Person
from appliance.control.steps import Ground
from policies.access import Act


class Text(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An article's text."""

    text: str
    reason: str = ""
    """For whoever accepts it, where it changes a protected suite."""


def set_article(
    ground: Ground, person: Person, kind: str, name: str, ask: Text
) -> law.Entry | Proposed:
    """Put an article in force; where a protected suite is, propose it.

    Raises:
        UsageError, RecordError, PolicyError: it is malformed.
    """
    person.require(Act.CHANGE_LAW)
    if kind == "suite":
        return suites.change(ground, person, name, ask.text, reason=ask.reason)
    return law.change(
        ground.database,
        ground.store,
        kind=kind,
        name=name,
        text=ask.text.encode("utf-8", "surrogatepass"),
        actor=person.name,
        at=time.time(),
    )


def repeal_article(ground: Ground, person: Person, kind: str, name: str) -> Proposed | None:
    """Take an article out of force; where it is a protected suite, propose to.

    Raises:
        NotFoundError: no such article is in force.
    """
    person.require(Act.CHANGE_LAW)
    if kind == "suite":
        return suites.repeal(ground, person, name)
    law.repeal(
        ground.database, ground.store, kind=kind, name=name, actor=person.name, at=time.time()
    )
    return None
