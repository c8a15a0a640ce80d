"""Lineage: from an adapter to what made it: parents down to the base, dataset, trajectories."""

from functools import lru_cache
from typing import Any

import msgspec
import sqlalchemy as sa

from appliance.control.identity import Person
from appliance.control.reading import visible
from appliance.control.reading.lineage import Served, served_when
from appliance.control.rounds import Order
from appliance.control.steps import Ground
from appliance.core.database import Database
from appliance.core.digests import Digest
from appliance.core.errors import EspalierError, NotFoundError
from appliance.core.recipe import parse_recipe
from appliance.core.records import Adapter, decode
from appliance.core.tables import adapters, dataset_members, datasets, rounds, trajectories
from policies.access import Act

PAGE = 50
ANCESTORS_MAX = 50

_a, _m, _t = adapters.c, dataset_members.c, trajectories.c
_KIN = (_a.content, _a.number, _a.dataset, _a.label, _a.created_at)


class Kin(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter in the line."""

    adapter: str
    number: int
    dataset: str
    round: int | None
    """Whose dataset it was trained on."""
    created_at: float


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What a dataset took of what it looked at."""

    trajectories: int
    used: int
    """Trajectories with at least one example."""
    examples: int
    corrections: int
    excluded: dict[str, int]
    """Reasons → trajectories, the most frequent first."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A trajectory that the dataset looked at."""

    trajectory_id: str
    version: int
    num_examples: int
    num_corrections: int
    excluded: str
    team: str
    project: str
    agent: str
    outcome: str
    task: str | None
    label: str


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter and what made it."""

    adapter: Digest
    number: int
    label: str
    created_at: float
    record: Adapter
    dataset: Digest
    counts: Counts
    rounds: tuple[int, ...]
    """Whose candidate it was."""
    parents: tuple[Kin, ...]
    """The nearest first, at most `ANCESTORS_MAX`; after the last one comes the base."""
    num_parents: int
    children: tuple[Kin, ...]
    served: tuple[Served, ...]
    recipe: str | None
    """Its text, where a round's law still has it."""
    trajectories: tuple[Member, ...]
    """A page of those that this person may see, by id."""
    after: str | None
    """Where the next page begins; None where there is none."""


def of_adapter(ground: Ground, person: Person, digest: str, after: str = "") -> Made:
    """What made an adapter, the trajectories of its dataset from id `after` on.

    Raises:
        NotFoundError: no such adapter that this person may see.
    """
    person.require(Act.VIEW)
    labels = visible.labels(ground, person)
    wanted = digest if digest.startswith("sha256:") else f"sha256:{digest}"
    with ground.database.read() as connection:
        row = connection.execute(sa.select(adapters).where(_a.content == wanted)).first()
        if row is None or not person.sees(row.label):
            raise NotFoundError(
                f"no adapter {digest[:100]}", next_step="its full digest stands in its release"
            )
        parents = _kin(connection, person, _ancestors(wanted))
        children = _kin(connection, person, _children(wanted))
        cast = connection.execute(
            sa.select(rounds.c.round, rounds.c.order)
            .where(rounds.c.adapter == wanted)
            .order_by(rounds.c.round)
        ).all()
        members = _members(connection, labels, row.dataset, after)
        served = served_when(connection, [wanted]).get(wanted, ())
    record = decode(row.record, Adapter)
    shown = members[:PAGE]
    return Made(
        adapter=row.content,
        number=row.number,
        label=row.label,
        created_at=row.created_at,
        record=record,
        dataset=row.dataset,
        counts=counts_of(ground.database, row.dataset),
        rounds=tuple(one.round for one in cast),
        parents=tuple(parents[:ANCESTORS_MAX]),
        num_parents=len(parents),
        children=tuple(children),
        served=served,
        recipe=_recipe(ground, record, [one.order for one in cast]),
        trajectories=tuple(shown),
        after=shown[-1].trajectory_id if len(members) > PAGE else None,
    )


@lru_cache(maxsize=256)
def counts_of(database: Database, dataset: str) -> Counts:
    """What a dataset took. A dataset never changes, so it is counted once."""
    query = (
        sa.select(
            _m.excluded,
            sa.func.count().label("trajectories"),
            sa.func.sum(_m.num_examples).label("examples"),
            sa.func.sum(_m.num_corrections).label("corrections"),
            sa.func.sum(sa.case((_m.num_examples > 0, 1), else_=0)).label("used"),
        )
        .where(_m.dataset == dataset)
        .group_by(_m.excluded)
        .order_by(sa.func.count().desc(), _m.excluded)
    )
    with database.read() as connection:
        rows = connection.execute(query).all()
    return Counts(
        trajectories=sum(row.trajectories for row in rows),
        used=sum(row.used for row in rows),
        examples=sum(row.examples for row in rows),
        corrections=sum(row.corrections for row in rows),
        excluded={row.excluded: row.trajectories for row in rows if row.excluded},
    )


def _ancestors(content: str) -> sa.Select[Any]:
    line = (
        sa.select(_a.parent.label("content"), sa.literal(1).label("steps"))
        .where(_a.content == content)
        .cte("line", recursive=True)
    )
    line = line.union_all(
        sa.select(_a.parent, line.c.steps + 1).join(line, _a.content == line.c.content)
    )
    return sa.select(*_KIN).join(line, line.c.content == _a.content).order_by(line.c.steps)


def _children(content: str) -> sa.Select[Any]:
    return sa.select(*_KIN).where(_a.parent == content).order_by(_a.number).limit(PAGE)


def _kin(connection: sa.Connection, person: Person, query: sa.Select[Any]) -> list[Kin]:
    found = query.add_columns(datasets.c.round).join(
        datasets, datasets.c.digest == _a.dataset, isouter=True
    )
    return [
        Kin(
            adapter=row.content,
            number=row.number,
            dataset=row.dataset,
            round=row.round,
            created_at=row.created_at,
        )
        for row in connection.execute(found)
        if person.sees(row.label)
    ]


def _members(
    connection: sa.Connection, labels: list[str], dataset: str, after: str
) -> list[Member]:
    """A page of those with these labels, then and now, and one more where there is more."""
    later = trajectories.alias("later")
    raised = sa.exists().where(
        later.c.trajectory_id == _t.trajectory_id,
        later.c.version > _t.version,
        later.c.label.not_in(labels),
    )
    about = (_t.team, _t.project, _t.agent, _t.outcome, _t.task, _t.label)
    columns = (_m.trajectory_id, _m.version, _m.num_examples, _m.num_corrections, _m.excluded)
    query = (
        sa.select(*columns, *about)
        .join(trajectories, (_t.trajectory_id == _m.trajectory_id) & (_t.version == _m.version))
        .where(_m.dataset == dataset, _m.trajectory_id > after, _t.label.in_(labels), ~raised)
        .order_by(_m.trajectory_id)
        .limit(PAGE + 1)
    )
    return [Member(**row._mapping) for row in connection.execute(query)]


def _recipe(ground: Ground, record: Adapter, orders: list[str]) -> str | None:
    for order in orders:
        try:
            text = ground.store.get(msgspec.json.decode(order, type=Order).recipe).decode()
            if parse_recipe(text).digest == record.recipe:
                return text
        except (EspalierError, msgspec.DecodeError, UnicodeDecodeError):
            # A recipe of a version that knew other keys, or an object that is gone.
            continue
    return None
