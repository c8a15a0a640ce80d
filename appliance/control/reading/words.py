"""Words that a round's own records quote from its data: reasons, comments, logs, canaries' names.

All data of an endpoint is below its label. Who sees that label reads everything; for others the
figures stay and the words are left out, on every page and in every answer of the API alike.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from appliance.control.identity import Person
from appliance.control.review import review, summary
from appliance.control.rounds import Round
from appliance.control.steps import Ground
from appliance.core.audit import Entry

HIDDEN = "(words of data above your label)"
_QUOTING = ("reason", "comment", "why")


def reads(ground: Ground, person: Person) -> bool:
    """Whether this person may read whatever the data of this endpoint says."""
    return person.sees(ground.settings.gateway.label)


def seen(ground: Ground, person: Person, round_: Round) -> Round:
    """The round as this person may read it."""
    if reads(ground, person) or not round_.reason:
        return round_
    return msgspec.structs.replace(round_, reason=HIDDEN)


def summarised(ground: Ground, person: Person, round_: Round) -> dict[str, Any]:
    """One line of a round, as this person may read it."""
    return summary(ground, seen(ground, person, round_))


def reviewed(ground: Ground, person: Person, round_: Round) -> dict[str, Any]:
    """Everything about a round that this person may read."""
    found = review(ground, seen(ground, person, round_))
    if reads(ground, person):
        return found
    decisions = [{**one, "comment": HIDDEN} for one in found["decisions"]]
    return {**found, "scorecard": None, "likelihoods": {}, "gates": None, "decisions": decisions}


def entries(ground: Ground, person: Person, found: Iterable[Entry]) -> list[Entry]:
    """Entries of the audit log as this person may read them."""
    if reads(ground, person):
        return list(found)
    return [msgspec.structs.replace(one, detail=_hushed(one.detail)) for one in found]


def _hushed(detail: dict[str, Any]) -> dict[str, Any]:
    quoted = {name: HIDDEN for name in _QUOTING if detail.get(name)}
    return {**detail, **quoted}
