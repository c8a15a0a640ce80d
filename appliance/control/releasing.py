"""What the release journal says became of a round's adapter. Serving writes it, we read it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from appliance.core.database import Database
from appliance.core.decisions import Approval, Release, Rollout
from appliance.core.digests import Digest
from appliance.core.records import decode
from appliance.core.tables import audit, releases


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of trying a candidate out."""

    under_way: bool
    ended: str
    """By what and why, once it is not under way."""


def trying_now(database: Database, alias: str) -> Rollout | None:
    """What is tried out for this alias at the moment."""
    with database.read() as connection:
        record = connection.scalar(
            sa.select(releases.c.record)
            .where(releases.c.alias == alias)
            .order_by(releases.c.generation.desc())
            .limit(1)
        )
    return decode(record, Release).trying if record else None


def entries_citing(
    database: Database, alias: str, cast: Sequence[Approval], *reasons: str
) -> list[Release]:
    """The journal's entries of these kinds that cite approvals of `cast` alone, oldest first."""
    with database.read() as connection:
        records = connection.scalars(
            sa.select(releases.c.record)
            .where(releases.c.alias == alias, releases.c.reason.in_(reasons))
            .order_by(releases.c.generation)
        ).all()
    entries = [decode(record, Release) for record in records]
    digests = {approval.digest for approval in cast}
    return [entry for entry in entries if entry.approvals and set(entry.approvals) <= digests]


def trial_of(
    database: Database, alias: str, adapter: Digest | None, cast: Sequence[Approval]
) -> Trial | None:
    """How the trial of an adapter on these approvals goes; None where it was never begun."""
    entries = entries_citing(database, alias, cast, "shadow", "canary")
    stages = [e.generation for e in entries if e.trying and e.trying.candidate == adapter]
    if not stages:
        return None
    following = stages[-1] + 1
    with database.read() as connection:
        after = connection.scalar(
            sa.select(releases.c.record).where(
                releases.c.alias == alias, releases.c.generation == following
            )
        )
        if after is None:
            return Trial(under_way=True, ended="")
        end = decode(after, Release)
        told = connection.scalars(
            sa.select(audit.c.detail).where(
                audit.c.act == f"alias.{end.reason}", audit.c.at == end.at
            )
        ).all()
    why = [one["comment"] for one in map(json.loads, told) if one["generation"] == following]
    return Trial(under_way=False, ended=": ".join([f"{end.reason} by {end.actor}", *why]))
