"""The versions that one can talk to, each by the model name that the gateway takes."""

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from appliance.control.identity import Person
from appliance.control.rounds import Rounds
from appliance.control.steps import Ground
from appliance.core.digests import Digest, short
from appliance.core.errors import NotFoundError
from appliance.core.tables import adapters, releases, rounds
from policies.access import Act
from policies.lifecycle import State

KEPT_MAX = 30
"""Older versions that are offered; any other is there by its name."""


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """Something that answers."""

    model: str
    """What the gateway calls it: the alias, ``alias@sha256:…`` or ``alias@base``."""
    adapter: Digest | None
    """None is the base."""
    name: str
    """For people: what it is now, and its digest."""
    label: str
    round: int | None = None
    """The round that made it."""

    @property
    def pair(self) -> tuple[str, str]:
        """For a list to choose from."""
        return self.model, self.name


def versions(ground: Ground, person: Person, *, also: Sequence[str] = ()) -> list[Version]:
    """The champion, the candidate that waits, the version before, the base, then what is kept.

    Of what is kept, the newest `KEPT_MAX`, and those that `also` names as models. Only what the
    person may see.
    """
    person.require(Act.TALK)
    alias = ground.settings.gateway.alias
    kept = _kept(alias)
    with ground.database.read() as connection:
        now = connection.execute(_journal(alias).limit(1)).first()
        waiting = connection.execute(_WAITING).first()
        champion, before = (now.adapter, now.previous) if now else (None, None)
        candidate = waiting.adapter if waiting else None
        named = {champion, before, candidate, *(model.partition("@")[2] for model in also)}
        rows = connection.execute(kept.limit(KEPT_MAX)).all()
        others = connection.execute(kept.where(adapters.c.content.in_(named - {None}))).all()
    made = {row.content: row for row in (*rows, *others)}
    offered: list[tuple[str, str | None, str]] = [
        (alias, champion, "champion" if champion else "champion, the base")
    ]
    if waiting and candidate:
        offered.append((f"{alias}@{candidate}", candidate, f"candidate, round {waiting.round}"))
    if before:
        offered.append((f"{alias}@{before}", before, "the version before"))
    offered.append((f"{alias}@base", None, "the base"))
    # The champion stands there already; who names it exactly wants it whatever the alias does.
    offered += [
        (f"{alias}@{row.content}", row.content, _made_by(row))
        for row in made.values()
        if row.content != champion or f"{alias}@{row.content}" in also
    ]
    found: dict[str, Version] = {}
    for model, adapter, what in offered:
        label = "public" if adapter is None else made[adapter].label if adapter in made else None
        if model not in found and label is not None and person.sees(label):
            found[model] = Version(
                model=model,
                adapter=Digest(adapter) if adapter else None,
                name=f"{what}, {short(adapter)}" if adapter else what,
                label=label,
                round=made[adapter].round if adapter else None,
            )
    return list(found.values())


def chosen(ground: Ground, person: Person, models: Sequence[str]) -> list[Version]:
    """The versions of these names.

    Raises:
        NotFoundError: one of them is not there, or not for this person to see.
    """
    known = {version.model: version for version in versions(ground, person, also=models)}
    for model in models:
        if model not in known:
            raise NotFoundError(
                f"no version {model[:100]!r} here", next_step="choose one that the page Talk offers"
            )
    return [known[model] for model in models]


def of_round(ground: Ground, person: Person, number: int) -> list[str]:
    """The models to compare for a round: what it would replace, and what it made.

    Raises:
        NotFoundError: no such round, or it has made nothing yet.
    """
    person.require(Act.TALK)
    round_ = Rounds(ground.database).get(number)
    if round_.adapter is None:
        raise NotFoundError(f"round {number} has no candidate yet", next_step="wait for its end")
    alias = ground.settings.gateway.alias
    return [f"{alias}@{round_.champion or 'base'}", f"{alias}@{round_.adapter}"]


def sees_adapter(ground: Ground, person: Person, adapter: str) -> bool:
    """Whether this person may read what an adapter says; ``base`` may be read by all."""
    if adapter == "base":
        return True
    with ground.database.read() as connection:
        label = connection.scalar(sa.select(adapters.c.label).where(adapters.c.content == adapter))
    return label is not None and person.sees(label)


# It waits for people, so it is the one that somebody has come to talk to.
_WAITING = sa.select(rounds.c.round, rounds.c.adapter).where(
    rounds.c.state == State.AWAITING_APPROVAL
)


def _journal(alias: str) -> sa.Select[Any]:
    return (
        sa.select(releases.c.adapter, releases.c.previous)
        .where(releases.c.alias == alias)
        .order_by(releases.c.generation.desc())
    )


def _kept(alias: str) -> sa.Select[Any]:
    """Adapters that were released once, or that a round made; newest first."""
    released = sa.select(releases.c.adapter).where(
        releases.c.alias == alias, releases.c.adapter.is_not(None)
    )
    made = sa.select(sa.func.max(rounds.c.round)).where(rounds.c.adapter == adapters.c.content)
    of_round = made.scalar_subquery().label("round")
    return (
        sa.select(adapters.c.content, adapters.c.number, adapters.c.label, of_round)
        .where(adapters.c.content.in_(released) | of_round.is_not(None))
        .order_by(adapters.c.number.desc())
    )


def _made_by(row: Any) -> str:
    return "kept" if row.round is None else f"round {row.round}"
