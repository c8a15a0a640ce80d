"""Sealing: an open trajectory becomes an immutable version, an object named by its digest.

The version's object is written before the row that names it, so a kill between the two leaves an
object that nobody names and a trajectory that is sealed again.
"""

import zlib
from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from appliance.core.database import Database
from appliance.core.digests import Digest, canonical_json, digest_json
from appliance.core.objects import ObjectStore
from appliance.core.records import Feedback, Node, Trajectory, Turn, decode
from appliance.core.tables import trajectories, turns
from collectors import joins
from collectors.grouping import link_in_store
from collectors.joins import Link
from collectors.outcomes import outcome_of, tag_of
from collectors.search_index import put_words
from collectors.targets import feedback_of
from collectors.tiers import is_trainable, lowest, tier_of
from policies.labels import join

BATCH = 256

# Made once: building a statement takes longer than running it.
_ID: sa.BindParameter[str] = sa.bindparam("id")
_OBJECT_BEFORE = (
    sa.select(trajectories.c.object)
    .where(
        trajectories.c.trajectory_id == _ID,
        trajectories.c.version < sa.bindparam("before"),
        trajectories.c.object.is_not(None),
    )
    .order_by(trajectories.c.version.desc())
    .limit(1)
)
_HELD = sa.select(turns.c.record).where(turns.c.trajectory_id == _ID, turns.c.record.is_not(None))
_MADE = ("object", "part", "label", "tier", "outcome", "task", "family", "num_turns", "adapter")
_SEAL = (
    sa.update(trajectories)
    .where(trajectories.c.trajectory_id == _ID, trajectories.c.version == sa.bindparam("of"))
    .values({name: sa.bindparam(name) for name in (*_MADE, "state", "sealed_at", "changed_at")})
)
_RELEASE = sa.update(turns).where(turns.c.trajectory_id == _ID).values(record=None)


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """A version that was sealed just now."""

    trajectory: Trajectory
    object: Digest
    part: str
    """Of the lake: what was sealed in one transaction."""


def compose(
    pairs: Sequence[tuple[Turn, Link]],
    feedback: Sequence[Feedback],
    *,
    trajectory_id: str,
    version: int,
    sealed_at: float,
) -> Trajectory:
    """The trajectory of these turns and this feedback; their order does not matter."""
    links = [link for _, link in pairs]
    parents = joins.forest(links)
    order = joins.in_order(links, parents)
    index = {old: new for new, old in enumerate(order)}
    nodes = []
    for old in order:
        turn, above = pairs[old][0], parents[old]
        parent = None if above is None else index[above]
        nodes.append(
            Node(turn=turn, parent=parent, tier=tier_of(turn), trainable=is_trainable(turn))
        )
    # Imported turns share one time: among equals the later in the tree was the later answer.
    _, last = max(enumerate(nodes), key=lambda pair: (pair[1].turn.ended_at, pair[0]))
    return Trajectory(
        trajectory_id=trajectory_id,
        version=version,
        who=nodes[0].turn.who,
        label=join(node.turn.label for node in nodes),
        nodes=tuple(nodes),
        tier=lowest(node.tier for node in nodes),
        outcome=outcome_of(feedback, [last.turn.turn_id]),
        feedback=tuple(one.digest for one in feedback),
        task=tag_of(feedback, "task"),
        family=tag_of(feedback, "family"),
        sealed_at=sealed_at,
    )


def seal(
    database: Database, objects: ObjectStore, *, idle_s: float | None, now: float
) -> list[Sealed]:
    """Seal up to `BATCH` trajectories: ended ones, and those quiet for `idle_s` (None: none).

    Returns what was sealed; a version that would say the same as the one before it is dropped.
    Call again until nothing is due.
    """
    sealed: list[Sealed] = []
    with database.write() as connection:
        due = connection.execute(
            sa.select(trajectories)
            .where(_is_due(idle_s, now))
            .order_by(trajectories.c.trajectory_id)
            .limit(BATCH)
        ).all()
        said = {row.trajectory_id: feedback_of(connection, row.trajectory_id) for row in due}
        made = [_compose_row(connection, objects, row, said[row.trajectory_id], now) for row in due]
        fresh = [(row, t) for row, t in zip(due, made, strict=True) if t is not None]
        _drop(connection, [row for row, t in zip(due, made, strict=True) if t is None])
        records = [canonical_json(msgspec.to_builtins(f)) for fs in said.values() for f in fs]
        objects.put_many(records)
        digests = objects.put_many(msgspec.json.encode(t, order="deterministic") for _, t in fresh)
        part = _part_name([t for _, t in fresh])
        for (row, trajectory), digest in zip(fresh, digests, strict=True):
            _mark(connection, row, trajectory, digest, part)
            sealed.append(Sealed(trajectory=trajectory, object=digest, part=part))
        put_words(connection, [trajectory for _, trajectory in fresh])
    return sealed


def num_due(connection: sa.Connection, *, idle_s: float | None, now: float) -> int:
    """How many trajectories `seal` would take."""
    query = sa.select(sa.func.count()).select_from(trajectories).where(_is_due(idle_s, now))
    return int(connection.execute(query).scalar_one())


def _is_due(idle_s: float | None, now: float) -> sa.ColumnElement[bool]:
    ended = trajectories.c.state == "ending"
    if idle_s is None:
        return ended
    return ended | ((trajectories.c.state == "open") & (trajectories.c.changed_at <= now - idle_s))


def _compose_row(
    connection: sa.Connection,
    objects: ObjectStore,
    row: sa.Row[tuple[object, ...]],
    feedback: Sequence[Feedback],
    now: float,
) -> Trajectory | None:
    """The new version, None where it says nothing new."""
    name = {"id": row.trajectory_id, "before": row.version}
    before = connection.execute(_OBJECT_BEFORE, name).scalar()
    previous = decode(objects.get(Digest(before)), Trajectory) if before else None
    found = {} if previous is None else {_ref(node.turn): node.turn for node in previous.nodes}
    held = connection.execute(_HELD, name).scalars()
    for data in held:
        turn = decode(zlib.decompress(data), Turn)
        found[_ref(turn)] = turn
    pairs = [(turn, link_in_store(objects, turn)) for _, turn in sorted(found.items())]
    made = compose(
        pairs,
        feedback,
        trajectory_id=row.trajectory_id,
        version=row.version,
        sealed_at=now,
    )
    return None if previous is not None and _says_the_same(previous, made) else made


def _says_the_same(one: Trajectory, other: Trajectory) -> bool:
    aside = {"version": 0, "sealed_at": 0.0}
    return msgspec.structs.replace(one, **aside) == msgspec.structs.replace(other, **aside)


def _drop(connection: sa.Connection, rows: Sequence[sa.Row[tuple[object, ...]]]) -> None:
    for row in rows:
        connection.execute(
            sa.delete(trajectories).where(
                trajectories.c.trajectory_id == row.trajectory_id,
                trajectories.c.version == row.version,
            )
        )


def _mark(
    connection: sa.Connection,
    row: sa.Row[tuple[object, ...]],
    trajectory: Trajectory,
    digest: Digest,
    part: str,
) -> None:
    adapters = [node.turn.adapter for node in trajectory.nodes if node.turn.adapter]
    sealed = {
        "id": trajectory.trajectory_id,
        "of": trajectory.version,
        "state": "sealed",
        "object": digest,
        "part": part,
        "label": trajectory.label,
        "tier": trajectory.tier,
        "outcome": trajectory.outcome,
        "task": trajectory.task,
        "family": trajectory.family,
        "num_turns": len(trajectory.nodes),
        "adapter": adapters[-1] if adapters else None,
        "sealed_at": trajectory.sealed_at,
        "changed_at": trajectory.sealed_at,
    }
    connection.execute(_SEAL, sealed)
    # The turns' records are in the object now.
    connection.execute(_RELEASE, {"id": row.trajectory_id})


def _part_name(made: Sequence[Trajectory]) -> str:
    names = digest_json([[t.trajectory_id, t.version] for t in made])
    return names.removeprefix("sha256:")[:24]


def _ref(turn: Turn) -> tuple[str, int]:
    return (turn.turn_id, turn.choice)
