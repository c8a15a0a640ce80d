"""Lineage: from a trajectory to every dataset and adapter that it touched (adapter_lineage.py has
the way back). Adapters above the person's label are counted, not shown.
"""

import msgspec
import sqlalchemy as sa

from appliance.control.identity import Person
from appliance.control.reading.trajectory import require_visible
from appliance.control.steps import Ground
from appliance.core.tables import adapters, dataset_members, datasets, releases

ADAPTERS_MAX = 100

_a, _m = adapters.c, dataset_members.c


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset that looked at the trajectory."""

    dataset: str
    round: int | None
    created_at: float
    version: int
    """Of the trajectory, as it stood then."""
    num_examples: int
    num_corrections: int
    excluded: str
    """Reasons why nothing, or not everything, was taken."""


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """A time at which an alias came to mean an adapter."""

    alias: str
    generation: int
    reason: str
    at: float


class Touched(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter that learnt from the trajectory, itself or by what it was grown from."""

    adapter: str
    number: int
    steps: int
    """0: trained on it; 1: grown from one that was; and so on."""
    dataset: str
    created_at: float
    served: tuple[Served, ...]


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """What a trajectory went into."""

    datasets: tuple[Looked, ...]
    """The newest first."""
    adapters: tuple[Touched, ...]
    """The nearest first, at most `ADAPTERS_MAX`."""
    num_adapters: int
    num_hidden: int
    """Of these, how many are above the person's label."""


def of_trajectory(ground: Ground, person: Person, trajectory_id: str) -> Lineage:
    """Every dataset that looked at it, every adapter that learnt from it, and when they served.

    Raises:
        NotFoundError: no such trajectory that this person may see.
    """
    with ground.database.read() as connection:
        require_visible(connection, person, trajectory_id)
        looked = connection.execute(_looked(trajectory_id)).all()
        touched = connection.execute(_touched(trajectory_id)).all()
        seen = [row for row in touched if person.sees(row.label)]
        shown = seen[:ADAPTERS_MAX]
        served = served_when(connection, [row.content for row in shown])
    return Lineage(
        datasets=tuple(Looked(**row._mapping) for row in looked),
        adapters=tuple(
            Touched(
                adapter=row.content,
                number=row.number,
                steps=row.steps,
                dataset=row.dataset,
                created_at=row.created_at,
                served=served.get(row.content, ()),
            )
            for row in shown
        ),
        num_adapters=len(touched),
        num_hidden=len(touched) - len(seen),
    )


def served_when(connection: sa.Connection, contents: list[str]) -> dict[str, tuple[Served, ...]]:
    """Adapter → the times at which an alias came to mean it, oldest first."""
    r = releases.c
    query = sa.select(r.adapter, r.alias, r.generation, r.reason, r.at).where(
        r.adapter.in_(contents)
    )
    found: dict[str, tuple[Served, ...]] = {}
    for row in connection.execute(query.order_by(r.at)) if contents else ():
        one = Served(alias=row.alias, generation=row.generation, reason=row.reason, at=row.at)
        found[row.adapter] = (*found.get(row.adapter, ()), one)
    return found


def _looked(trajectory_id: str) -> sa.Select[tuple[object, ...]]:
    columns = (_m.dataset, datasets.c.round, datasets.c.created_at, _m.version)
    counts = (_m.num_examples, _m.num_corrections, _m.excluded)
    return (
        sa.select(*columns, *counts)
        .join(datasets, datasets.c.digest == _m.dataset)
        .where(_m.trajectory_id == trajectory_id)
        .order_by(datasets.c.created_at.desc())
    )


def _touched(trajectory_id: str) -> sa.Select[tuple[object, ...]]:
    """Adapters trained on a dataset with examples of it, and whatever grew from these."""
    taught = sa.select(_m.dataset).where(_m.trajectory_id == trajectory_id, _m.num_examples > 0)
    first = sa.select(_a.content, sa.literal(0).label("steps")).where(_a.dataset.in_(taught))
    grown = first.cte("grown", recursive=True)
    grown = grown.union(
        sa.select(_a.content, grown.c.steps + 1).join(grown, _a.parent == grown.c.content)
    )
    steps = sa.func.min(grown.c.steps).label("steps")
    return (
        sa.select(_a.content, _a.number, _a.dataset, _a.label, _a.created_at, steps)
        .join(grown, grown.c.content == _a.content)
        .group_by(_a.content)
        .order_by(steps, _a.number)
    )
