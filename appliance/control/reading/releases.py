"""What each alias means, and how it came to that."""

import msgspec
import sqlalchemy as sa

from appliance.control.identity import Person
from appliance.control.reading.overview import served_now
from appliance.control.releasing import trying_now
from appliance.control.steps import Ground
from appliance.core.decisions import Release, Rollout
from appliance.core.records import decode
from appliance.core.tables import adapters, audit, releases, rounds
from policies.access import Act
from policies.lifecycle import State

PAGE = 50


class Alias(msgspec.Struct, frozen=True, kw_only=True):
    """One alias, and what it meant before."""

    alias: str
    now: Release | None
    trying: Rollout | None
    """The candidate that is being tried out."""
    can_roll_back: bool
    history: tuple[Release, ...]
    reasons: dict[int, str]
    """Generation → what the person said."""
    numbers: dict[str, int]
    """Adapter → its number."""
    again: tuple[int, ...]
    """Rounds that were released and are not served now: they can be released again."""
    before: int | None


def alias(ground: Ground, person: Person, before: int | None = None) -> Alias:
    """The alias of this endpoint, its history in pages of 50 (generations below `before`)."""
    person.require(Act.VIEW)
    name = ground.settings.gateway.alias
    now = served_now(ground)
    query = (
        sa.select(releases.c.record)
        .where(releases.c.alias == name)
        .order_by(releases.c.generation.desc())
        .limit(PAGE + 1)
    )
    if before is not None:
        query = query.where(releases.c.generation < before)
    with ground.database.read() as connection:
        history = [decode(record, Release) for record in connection.scalars(query)]
        shown = history[:PAGE]
        contents = {one.adapter for one in shown} | {one.previous for one in shown}
        contents |= {one.trying.candidate for one in history if one.trying}
        numbers = connection.execute(
            sa.select(adapters.c.content, adapters.c.number).where(
                adapters.c.content.in_([one for one in contents if one])
            )
        ).all()
        again = connection.scalars(
            sa.select(rounds.c.round)
            .where(
                rounds.c.state == State.RELEASED,
                rounds.c.adapter.is_distinct_from(now.adapter if now else None),
            )
            .order_by(rounds.c.round.desc())
            .limit(10)
        ).all()
        said = connection.execute(
            sa.select(audit.c.detail).where(
                audit.c.act.in_(("alias.stop", "alias.rollback", "alias.kill")),
                audit.c.at >= min((one.at for one in shown), default=0.0),
            )
        ).all()
    trying = trying_now(ground.database, name)
    details = [msgspec.json.decode(row.detail) for row in said]
    details = [detail for detail in details if detail["alias"] == name]
    return Alias(
        alias=name,
        now=now,
        trying=trying,
        can_roll_back=trying is not None or (now is not None and now.reason == "release"),
        history=tuple(shown),
        reasons={int(d["generation"]): str(d.get("comment", "")) for d in details},
        numbers={row.content: row.number for row in numbers},
        again=tuple(again),
        before=shown[-1].generation if len(history) > PAGE else None,
    )
