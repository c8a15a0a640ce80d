"""`espalier curate`: seals a dataset for a base, and says what was left out and why."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from appliance.core.database import Database
from appliance.core.digests import Digest, canonical_json
from appliance.core.errors import UsageError
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.recipe import load_recipe
from appliance.core.records import Dataset, Feedback, Trajectory, decode
from appliance.core.settings import Settings
from appliance.core.tables import datasets, rounds, trajectories
from appliance.engine.bases import Registry
from appliance.engine.template import Template
from collectors.curation.members import put_members
from collectors.curation.select import Limits, Selection
from collectors.outcomes import tag_of

_FAILED = sa.select(rounds.c.round).where(rounds.c.state == "failed")
"""Rounds that ended before they could judge: what they looked at is still new."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for."""

    recipe: Path
    base: str | None = None
    trajectories: Literal["all", "new"] = "all"
    """`new`: those in no dataset of another round. What a person curated counts for nothing."""
    since: float | None = None
    round: int | None = None
    label: str | None = None
    cap: int = 100_000
    hold_out_share: float = 0.0


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """The sealed dataset, in numbers."""

    dataset: Digest
    examples: int
    excluded: dict[str, int]
    kinds: dict[str, int]
    tiers: dict[str, int]
    tokens: int
    trained_tokens: int
    rewritten_prompts: int
    trajectories: int
    label: str
    held_out: Digest | None
    held_out_examples: int


def curate(home: Home, settings: Settings, order: Order) -> Made:
    """Seal a dataset of the sealed trajectories. A round's dataset, once sealed, is given again.

    Raises:
        RecordError: the recipe does not parse.
        NotFoundError: no such base.
    """
    if not 0 <= order.hold_out_share < 1:
        raise UsageError(f"--hold-out-share must be in [0, 1), got {order.hold_out_share}")
    recipe = load_recipe(order.recipe)
    base = Registry(home).get(order.base or settings.engine.base)
    database = Database.open(home.database)
    objects = ObjectStore(home.objects)
    try:
        if sealed := _sealed_before(database, objects, order, recipe.digest, base.digest):
            return sealed
        template = Template.load(base.path)
        limits = Limits(
            label=order.label or settings.gateway.label,
            cap=order.cap,
            hold_out_share=order.hold_out_share,
        )
        selection = Selection(base, template, recipe, limits, objects)
        for trajectory in _trajectories(database, objects, order):
            said = [decode(objects.get(digest), Feedback) for digest in trajectory.feedback]
            selection.take(trajectory, said)
        dataset, held_out = selection.datasets()
        digest = objects.put(canonical_json(msgspec.to_builtins(dataset)))
        aside = None
        if held_out.examples:
            aside = objects.put(canonical_json(msgspec.to_builtins(held_out)))
        with database.write() as connection:
            connection.execute(
                insert(datasets)
                .values(
                    digest=digest,
                    object=digest,
                    held_out=aside,
                    round=order.round,
                    created_at=time.time(),
                )
                # A person, or a round that failed, had curated the same; now it is this round's.
                .on_conflict_do_update(
                    index_elements=["digest"],
                    set_={"round": order.round},
                    where=datasets.c.round.is_(None) | datasets.c.round.in_(_FAILED),
                )
            )
            put_members(connection, digest, dataset)
        return _made(dataset, digest, held_out if aside else None, aside)
    finally:
        database.close()


def left_out(home: Home, dataset: Digest) -> list[str]:
    """Each exclusion of a dataset, its task and the record it was read from, as lines of text."""
    objects = ObjectStore(home.objects)
    sealed = decode(objects.get(dataset), Dataset)
    database = Database.open(home.database)
    try:
        about = {
            one.trajectory_id: _about(one, objects)
            for one in _versions(database, objects, sealed.trajectories)
        }
    finally:
        database.close()
    return [
        f"{one.reason}  {one.subject}  {about.get(one.subject.partition('#')[0], '')}".rstrip()
        for one in sealed.exclusions
    ]


def _about(trajectory: Trajectory, objects: ObjectStore) -> str:
    said = [decode(objects.get(digest), Feedback) for digest in trajectory.feedback]
    known = (trajectory.task, tag_of(said, "source"))
    return "  ".join(text for text in known if text)


def _versions(
    database: Database, objects: ObjectStore, wanted: Iterable[tuple[str, int]]
) -> Iterator[Trajectory]:
    query = sa.select(trajectories.c.trajectory_id, trajectories.c.version, trajectories.c.object)
    with database.read() as connection:
        rows = connection.execute(query).all()
    versions = set(wanted)
    for row in rows:
        if (row.trajectory_id, row.version) in versions:
            yield decode(objects.get(Digest(row.object)), Trajectory)


def show(made: Made) -> str:
    """The dataset and a table of what was left out."""
    lines = [
        f"dataset {made.dataset}",
        f"  {made.examples} examples from {made.trajectories} trajectories, {made.tokens} tokens, "
        f"{made.trained_tokens} of them trained on; label {made.label}",
        "  " + ", ".join(f"{n} {name}" for name, n in {**made.kinds, **made.tiers}.items()),
    ]
    if made.rewritten_prompts:
        lines.append(f"  {made.rewritten_prompts} with part of the prompt left out")
    if made.held_out:
        lines.append(f"held out {made.held_out}\n  {made.held_out_examples} examples")
    if made.excluded:
        lines.append("left out:")
        lines += [f"  {n:>7}  {reason}" for reason, n in made.excluded.items()]
    return "\n".join(line for line in lines if line.strip())


def _trajectories(database: Database, objects: ObjectStore, order: Order) -> Iterator[Trajectory]:
    """The newest sealed version of each trajectory that the order is about, by id."""
    t = trajectories.c
    newest = (
        sa.select(t.trajectory_id, sa.func.max(t.version).label("version"))
        .where(t.state == "sealed")
        .group_by(t.trajectory_id)
        .subquery()
    )
    query = (
        sa.select(t.trajectory_id, t.version, t.object)
        .join(
            newest,
            (t.trajectory_id == newest.c.trajectory_id) & (t.version == newest.c.version),
        )
        .order_by(t.trajectory_id)
    )
    if order.since is not None:
        query = query.where(t.sealed_at >= order.since)
    with database.read() as connection:
        rows = connection.execute(query).all()
    used = _used(database, objects, order) if order.trajectories == "new" else set()
    for row in rows:
        if (row.trajectory_id, row.version) not in used:
            yield decode(objects.get(Digest(row.object)), Trajectory)


def _used(database: Database, objects: ObjectStore, order: Order) -> set[tuple[str, int]]:
    """Versions that another round's dataset looked at, unless that round failed."""
    query = sa.select(datasets.c.object).where(
        datasets.c.round.is_not(None),
        datasets.c.round.is_distinct_from(order.round),
        datasets.c.round.not_in(_FAILED),
    )
    with database.read() as connection:
        others = connection.scalars(query).all()
    return {
        pair for one in others for pair in decode(objects.get(Digest(one)), Dataset).trajectories
    }


def _sealed_before(
    database: Database, objects: ObjectStore, order: Order, recipe: Digest, base: Digest
) -> Made | None:
    """The dataset of this round, where a step that was killed had sealed it already."""
    if order.round is None:
        return None
    query = sa.select(datasets).where(datasets.c.round == order.round)
    with database.read() as connection:
        rows = connection.execute(query.order_by(datasets.c.created_at)).all()
    for row in rows:
        dataset = decode(objects.get(Digest(row.object)), Dataset)
        if (dataset.recipe, dataset.base) == (recipe, base):
            held_out = decode(objects.get(Digest(row.held_out)), Dataset) if row.held_out else None
            return _made(dataset, Digest(row.digest), held_out, row.held_out)
    return None


def _made(dataset: Dataset, digest: Digest, held_out: Dataset | None, aside: Digest | None) -> Made:
    counts = dataset.counts
    return Made(
        dataset=digest,
        examples=counts["examples"],
        excluded=_group(counts, "excluded:"),
        kinds=_group(counts, "kind:"),
        tiers=_group(counts, "tier:"),
        tokens=counts["tokens"],
        trained_tokens=counts["trained_tokens"],
        rewritten_prompts=counts["rewritten_prompts"],
        trajectories=counts["trajectories"],
        label=dataset.label,
        held_out=aside,
        held_out_examples=held_out.counts["examples"] if held_out else 0,
    )


def _group(counts: dict[str, int], prefix: str) -> dict[str, int]:
    return {k.removeprefix(prefix): n for k, n in counts.items() if k.startswith(prefix)}
