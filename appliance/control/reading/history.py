"""What people said and did about a round: comments, decisions (also dismissed ones), entries."""

from typing import Any

import msgspec

from appliance.control.identity import Person
from appliance.control.reading import candidate, marks, words
from appliance.control.reading.marks import Comment
from appliance.control.reading.rounds import history_of
from appliance.control.rounds import Round, Rounds
from appliance.control.steps import Ground, approvals_of
from appliance.core.audit import Entry
from appliance.core.decisions import Approval
from appliance.core.digests import Digest
from policies.access import Act


class Cast(msgspec.Struct, frozen=True, kw_only=True):
    """A decision, and whether it still counts."""

    approver: str
    decision: str
    comment: str
    at: float
    adapter: Digest
    scorecard: Digest
    dismissed: bool
    """It was about another candidate: the adapter was made, or judged, again since."""
    superseded: bool
    """The same person decided about this candidate once more."""


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that people said and did, oldest first."""

    comments: list[Comment]
    decisions: list[Cast]
    entries: tuple[Entry, ...]
    viewers: dict[str, int]
    """Person → samples that they have ticked."""
    votes: dict[str, int]


def of(ground: Ground, person: Person, number: int) -> History:
    """The history of a round.

    Comments on a sample are for those who may see the sample: they may quote it.

    Raises:
        NotFoundError: no such round.
    """
    person.require(Act.VIEW)
    round_ = Rounds(ground.database).get(number)
    with ground.database.read() as connection:
        said = marks.comments_on(connection, number)
        card = round_.scorecard
        viewers = marks.viewers(connection, card) if card else {}
        votes = marks.votes(connection, card) if card else {}
    if not candidate.sees(ground, person, round_):
        said = [one for one in said if one.suite is None]
    return History(
        comments=said,
        decisions=_read(
            ground, person, decisions_of(round_, approvals_of(ground.database, number))
        ),
        entries=tuple(words.entries(ground, person, history_of(ground, number))),
        viewers=viewers,
        votes=votes,
    )


def _read(ground: Ground, person: Person, cast: list[Cast]) -> list[Cast]:
    if words.reads(ground, person):
        return cast
    return [msgspec.structs.replace(one, comment=words.HIDDEN) for one in cast]


def decisions_of(round_: Round, cast: list[Approval]) -> list[Cast]:
    """Every decision in the order in which they were made, marked where it counts no more."""
    last: dict[Any, Approval] = {(one.approver, one.candidate): one for one in cast}
    return [
        Cast(
            approver=one.approver,
            decision=one.decision,
            comment=one.comment,
            at=one.at,
            adapter=one.adapter,
            scorecard=one.scorecard,
            dismissed=one.candidate != round_.candidate,
            superseded=last[one.approver, one.candidate] is not one,
        )
        for one in cast
    ]
