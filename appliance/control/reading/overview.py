"""The first page: what is served, what it does, what waits for you."""

import time
from typing import Any

import msgspec
import sqlalchemy as sa

from appliance.control.identity import Person
from appliance.control.reading.gains import gains_of
from appliance.control.reading.pulse import Pulse, PulseTaker
from appliance.control.reading.words import summarised
from appliance.control.rounds import Round, Rounds
from appliance.control.steps import Ground, approvals_of, gates_of
from appliance.core.decisions import MOVES, Release
from appliance.core.records import decode
from appliance.core.tables import adapters, proposals, releases
from policies.access import Act
from policies.lifecycle import State

_TIMELINE = 12


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a person should look at."""

    href: str
    what: str
    since: float
    yours: bool
    """Whether this person may decide; where not, `why_not` says why."""
    why_not: str = ""


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """All of the first page."""

    alias: str
    serving: Release | None
    number: int | None
    """The adapter's number, where an adapter is served."""
    waiting: tuple[Waiting, ...]
    rounds: tuple[dict[str, Any], ...]
    gains: tuple[Any, ...]
    pulse: Pulse


def overview(ground: Ground, person: Person, taker: PulseTaker) -> Overview:
    """What `person` sees first."""
    person.require(Act.VIEW)
    past = Rounds(ground.database).some(limit=_TIMELINE)
    serving = served_now(ground)
    return Overview(
        alias=ground.settings.gateway.alias,
        serving=serving,
        number=number_of(ground, serving.adapter) if serving else None,
        waiting=tuple(waiting_for(ground, person)),
        rounds=tuple(summarised(ground, person, one) for one in past),
        gains=tuple(gains_of(ground, past)),
        pulse=taker.now(),
    )


def waiting_for(ground: Ground, person: Person) -> list[Waiting]:
    """The candidate and the proposals that wait for somebody."""
    found = []
    one = Rounds(ground.database).under_way()
    if one is not None and one.state is State.AWAITING_APPROVAL:
        why = why_not_sign(ground, person, one)
        found.append(
            Waiting(
                href=f"/rounds/{one.round}/checks",
                what=f"Round {one.round} waits for {_needed(ground, one)}",
                since=one.changed_at,
                yours=not why,
                why_not=why,
            )
        )
    p = proposals.c
    query = sa.select(p.number, p.name, p.proposer, p.at).where(p.state == "open")
    with ground.database.read() as connection:
        rows = connection.execute(query.order_by(p.number)).all()
    for row in rows:
        able = person.may(Act.ACCEPT_SUITE)
        own = row.proposer == person.name
        found.append(
            Waiting(
                href=f"/proposals/{row.number}",
                what=f"{row.proposer} proposes a change of the protected suite {row.name}",
                since=row.at,
                yours=able and not own,
                why_not="" if able and not own else "it is yours" if own else "an approver decides",
            )
        )
    return found


def why_not_sign(ground: Ground, person: Person, round_: Round) -> str:
    """Why this person cannot sign for the candidate now; empty where they can."""
    if not person.may(Act.APPROVE):
        return f"the role {person.role} does not sign"
    if person.name in round_.authors:
        return "you are one of its authors"
    label = label_of(ground, round_.adapter)
    if label is not None and not person.sees(label):
        return f"its label is {label}, you see {person.label}"
    last = [a for a in approvals_of(ground.database, round_.round) if a.approver == person.name]
    if last and last[-1].candidate == round_.candidate:
        return {"approve": "you approved it", "request_changes": "you requested changes"}.get(
            last[-1].decision, "you rejected it"
        )
    return ""


def served_now(ground: Ground) -> Release | None:
    """The journal's entry that made the alias mean what it means."""
    query = (
        sa.select(releases.c.record)
        .where(releases.c.alias == ground.settings.gateway.alias, releases.c.reason.in_(MOVES))
        .order_by(releases.c.generation.desc())
        .limit(1)
    )
    with ground.database.read() as connection:
        found = connection.scalar(query)
    return decode(found, Release) if found else None


def number_of(ground: Ground, adapter: str | None) -> int | None:
    """An adapter's number; None for the base."""
    with ground.database.read() as connection:
        found: int | None = connection.scalar(
            sa.select(adapters.c.number).where(adapters.c.content == adapter)
        )
    return found


def label_of(ground: Ground, adapter: str | None) -> str | None:
    """An adapter's label; None for the base, or one that is not known."""
    with ground.database.read() as connection:
        found: str | None = connection.scalar(
            sa.select(adapters.c.label).where(adapters.c.content == adapter)
        )
    return found


def expires_at(ground: Ground, round_: Round) -> float | None:
    """When a waiting candidate is given up; None while none waits."""
    if round_.state is not State.AWAITING_APPROVAL:
        return None
    return round_.changed_at + ground.settings.round.approval_hours * 3600


def _needed(ground: Ground, round_: Round) -> str:
    signed = {
        a.approver
        for a in approvals_of(ground.database, round_.round)
        if (a.candidate, a.decision) == (round_.candidate, "approve")
        and time.time() - a.at <= ground.settings.round.approval_hours * 3600
    }
    left = max(gates_of(ground, round_).quorum - len(signed - set(round_.authors)), 0)
    return f"{left} more signature{'s' if left != 1 else ''}"
