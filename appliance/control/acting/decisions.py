"""Signing: approve, request changes, reject. The law is asked here, whoever calls.

Whether a candidate may be released is decided again, from what is recorded, by the worker and by
serving.
"""

import time
from typing import Literal

import msgspec
import sqlalchemy as sa

from appliance.control import people
from appliance.control.identity import Person
from appliance.control.rounds import Round, Rounds
from appliance.control.steps import Ground
from appliance.core import audit
from appliance.core.decisions import Approval, Candidate
from appliance.core.digests import Digest, short
from appliance.core.errors import ConflictError, ForbiddenError, UsageError
from appliance.core.records import decode, encode
from appliance.core.tables import adapters, approvals
from policies.access import Act
from policies.lifecycle import State

COMMENT_MAX = 10_000

_ACTS = {
    "approve": Act.APPROVE,
    "request_changes": Act.REQUEST_CHANGES,
    "reject": Act.REJECT,
}


class Decision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A decision about a round's candidate."""

    decision: Literal["approve", "request_changes", "reject"]
    comment: str = ""
    adapter: Digest | None = None
    """What was looked at; refused where the round has another by now."""
    scorecard: Digest | None = None
    order: Digest | None = None


def decide(ground: Ground, person: Person, number: int, ask: Decision) -> Approval:
    """Record a person's decision about the candidate that waits.

    Raises:
        ForbiddenError: the role, the label or being an author forbids it.
        SignatureError: the passphrase did not come with the request.
        UsageError: changes requested, or rejected, without a word why.
        ConflictError: nothing waits, the candidate is another one, or it was decided so already.
    """
    person.require(_ACTS[ask.decision])
    comment = ask.comment.strip()
    if ask.decision != "approve" and not comment:
        raise UsageError("say why: the author has to go on from it", next_step="add a comment")
    if len(comment) > COMMENT_MAX:
        raise UsageError(f"a comment has at most {COMMENT_MAX} characters, got {len(comment)}")
    at = time.time()
    with ground.database.write() as connection:
        # Read under the write lock: what is signed is what waits at this very moment.
        round_ = Rounds.read(connection, number)
        candidate = _candidate(round_, ask)
        people.require_still(connection, person)
        _require_able(connection, person, round_, ask.decision)
        approval = Approval(
            round=number,
            adapter=candidate.adapter,
            scorecard=candidate.scorecard,
            order=candidate.order or msgspec.UNSET,
            approver=person.name,
            decision=ask.decision,
            comment=comment,
            at=at,
        )
        _require_new(connection, approval)
        audit.record(
            connection, actor=person.name, act=f"round.{ask.decision}", subject=str(number), at=at,
            comment=comment, **msgspec.to_builtins(candidate),
        )  # fmt: skip
        connection.execute(
            sa.insert(approvals).values(
                digest=approval.digest,
                round=number,
                adapter=candidate.adapter,
                approver=person.name,
                record=encode(approval).decode(),
            )
        )
    return approval


def _candidate(round_: Round, ask: Decision) -> Candidate:
    number = round_.round
    if round_.state is not State.AWAITING_APPROVAL:
        raise ConflictError(
            f"round {number} is {round_.state}, nothing waits for a decision",
            next_step=f"espalier review {number} shows what became of it",
        )
    now = round_.candidate
    if now is None:
        raise ConflictError(f"round {number} has no evaluated adapter")
    if (ask.adapter or now.adapter) != now.adapter:
        raise ConflictError(
            f"round {number} made {round_.adapter}, you decided about another",
            next_step="look at the candidate as it is now, then decide again",
        )
    if (ask.scorecard or now.scorecard, ask.order or now.order) != (now.scorecard, now.order):
        raise ConflictError(
            f"round {number} was judged again: its scorecard is {short(now.scorecard)} now",
            next_step="look at the candidate as it is now, then decide again",
        )
    return now


def _require_able(connection: sa.Connection, person: Person, round_: Round, decision: str) -> None:
    if decision == "approve" and person.name in round_.authors:
        raise ForbiddenError(
            f"{person.name} is an author of round {round_.round}: nobody approves their own work",
            next_step=f"somebody else runs: espalier approve {round_.round}",
        )
    label = connection.scalar(
        sa.select(adapters.c.label).where(adapters.c.content == round_.adapter)
    )
    # Nobody signs for what they may not look at.
    if label is not None and not person.sees(label):
        raise ForbiddenError(
            f"the candidate of round {round_.round} has label {label!r}, you see {person.label!r}",
            next_step="somebody who may see it decides",
        )


def _require_new(connection: sa.Connection, approval: Approval) -> None:
    """A double click is one decision."""
    a = approvals.c
    rows = connection.scalars(
        sa.select(a.record)
        .where(a.round == approval.round, a.approver == approval.approver)
        .order_by(a.number.desc())
        .limit(1)
    ).all()
    for last in (decode(row, Approval) for row in rows):
        if last.candidate == approval.candidate and last.decision == approval.decision:
            raise ConflictError(
                f"{approval.approver} has already decided on round {approval.round}: "
                f"{last.decision}"
            )
