"""Changes of protected suites: proposed by one person, accepted or declined by another."""

import time
from typing import Any

import msgspec
import sqlalchemy as sa

from appliance.control import law, people
from appliance.control.identity import Person
from appliance.control.law import REPEALED, Entry
from appliance.control.steps import Ground
from appliance.control.suite_check import require_sound_suite
from appliance.core import audit
from appliance.core.digests import Digest
from appliance.core.errors import ConflictError, ForbiddenError, NotFoundError, UsageError
from appliance.core.tables import proposals
from policies.access import Act
from policies.suites import ProposalState, require_accepter, require_open

REASON_MAX = 1000


class Proposed(msgspec.Struct, frozen=True, kw_only=True):
    """A change that waits for somebody else."""

    proposed: int
    """The proposal's number."""
    suite: str
    object: Digest
    """What the suite would be; empty for a repeal."""
    replaces: Digest
    next_step: str


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A proposal that nobody has decided about."""

    number: int
    object: Digest


def own_waiting(ground: Ground, person: Person, before: Entry) -> Waiting | None:
    """The newest change (no repeal) of `before` that this person has proposed, if it waits."""
    query = (
        sa.select(proposals.c.number, proposals.c.object)
        .where(
            proposals.c.name == before.name,
            proposals.c.replaces == before.object,
            proposals.c.proposer == person.name,
            proposals.c.state == ProposalState.OPEN,
            proposals.c.object != REPEALED,
        )
        .order_by(proposals.c.number.desc())
        .limit(1)
    )
    with ground.database.read() as connection:
        row = connection.execute(query).first()
    return Waiting(number=row.number, object=Digest(row.object)) if row else None


def propose(
    ground: Ground,
    person: Person,
    before: Entry,
    text: Digest,
    *,
    reason: str,
    instead_of: Waiting | None = None,
) -> Proposed:
    """Propose that `text` (its digest; `REPEALED` for a repeal) takes the place of `before`.

    The caller has required the act. The same proposal again is the same one. `instead_of` is an
    older one that is in this one, and need not be decided any more.

    Raises:
        ConflictError: `before` is no longer in force, or says the same; or somebody has decided
            about `instead_of` meanwhile.
        UsageError: the reason is too long.
    """
    if text == before.object:
        raise ConflictError(f"suite {before.name} in force says the same")
    if len(reason) > REASON_MAX:
        raise UsageError(f"a reason has at most {REASON_MAX} characters, got {len(reason)}")
    at = time.time()
    row = {"name": before.name, "replaces": before.object, "object": text, "state": "open"}
    same = sa.select(proposals.c.number).where(
        *(proposals.c[column] == value for column, value in row.items())
    )
    with ground.database.write() as connection:
        now = law.in_force_now(connection, "suite", before.name)
        law.require_in_force(now, before.object, name=f"suite {before.name}")
        if instead_of is not None:
            _require_still_open(connection, instead_of.number)
            _overtake(connection, proposals.c.number == instead_of.number)
        number = connection.scalar(same)
        if number is None:
            number = connection.execute(
                sa.insert(proposals)
                .values(**row, reason=reason, proposer=person.name, at=at)
                .returning(proposals.c.number)
            ).scalar_one()
            audit.record(
                connection,
                actor=person.name,
                act="suite.propose",
                subject=f"suite/{before.name}",
                at=at,
                proposal=number,
                object=text,
                replaces=before.object,
                reason=reason,
            )
    return Proposed(
        proposed=number,
        suite=before.name,
        object=text,
        replaces=before.object,
        next_step=f"an approver, not {person.name}, runs: espalier law accept {number}",
    )


def accept(ground: Ground, person: Person, number: int) -> Entry:
    """Put a proposed change in force: its proposer is the author, this person accepted it.

    Raises:
        NotFoundError: no such proposal.
        ForbiddenError: this person proposed it.
        ConflictError: it was decided already, or is overtaken: the suite that it was made from is
            no longer in force.
    """
    person.require(Act.ACCEPT_SUITE)
    row = _get(ground, number)
    require_open(row.state, number=number)
    require_accepter(proposer=row.proposer, accepter=person.name)
    label = ground.settings.gateway.label
    if not person.sees(label):
        raise ForbiddenError(
            f"suites have the endpoint's label, {label!r}; you see {person.label!r}",
            next_step="somebody who may read the change decides about it",
        )
    if row.object != REPEALED:
        require_sound_suite(ground, row.name, ground.store.get(Digest(row.object)).decode())
    entry = Entry(
        kind="suite",
        name=row.name,
        object=Digest(row.object),
        actor=row.proposer,
        at=time.time(),
        accepted_by=person.name,
    )
    with ground.database.write() as connection:
        people.require_still(connection, person)
        _require_still_open(connection, number)
        before = law.in_force_now(connection, "suite", row.name)
        stands = before is not None and before.object == row.replaces
        state = ProposalState.ACCEPTED if stands else ProposalState.OVERTAKEN
        _decide(connection, row, state, person, entry.at)
        if stands:
            law.enact(connection, entry)
            _overtake(connection, proposals.c.name == row.name)
    if not stands:
        raise ConflictError(
            f"proposal {number} is overtaken: suite {row.name} was changed since it was made",
            next_step="look at the suite as it is now, and propose again if it is still wanted",
        )
    return entry


def decline(ground: Ground, person: Person, number: int, *, reason: str = "") -> None:
    """Say no to a proposed change; whoever proposed it may take it back so.

    Raises:
        NotFoundError: no such proposal.
        ConflictError: it was decided already.
    """
    row = _get(ground, number)
    person.require(Act.KEEP_TEST if person.name == row.proposer else Act.ACCEPT_SUITE)
    with ground.database.write() as connection:
        _require_still_open(connection, number)
        _decide(connection, row, ProposalState.DECLINED, person, time.time(), reason=reason[:1000])


def _get(ground: Ground, number: int) -> Any:
    with ground.database.read() as connection:
        row = connection.execute(sa.select(proposals).where(proposals.c.number == number)).first()
    if row is None:
        raise NotFoundError(f"no proposal {number}", next_step="the page Suites lists them")
    return row


def _require_still_open(connection: sa.Connection, number: int) -> None:
    state = connection.scalar(sa.select(proposals.c.state).where(proposals.c.number == number))
    require_open(state or "", number=number)


def _decide(
    connection: sa.Connection,
    row: Any,
    state: ProposalState,
    person: Person,
    at: float,
    **detail: str,
) -> None:
    verbs = {ProposalState.ACCEPTED: "suite.accept", ProposalState.DECLINED: "suite.decline"}
    audit.record(
        connection,
        actor=person.name,
        act=verbs.get(state, "suite.overtaken"),
        subject=f"suite/{row.name}",
        at=at,
        proposal=row.number,
        proposer=row.proposer,
        object=row.object,
        **detail,
    )
    connection.execute(
        sa.update(proposals)
        .where(proposals.c.number == row.number)
        .values(state=state, decided_by=person.name, decided_at=at)
    )


def _overtake(connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
    connection.execute(
        sa.update(proposals)
        .where(which, proposals.c.state == ProposalState.OPEN)
        .values(state=ProposalState.OVERTAKEN)
    )
