"""Which trajectories a feedback is about, and which feedback a trajectory has.

Both directions look at the tables as they are now, so it does not matter which came first. A
session's name belongs to the key that used it: where several keys used the same one, a feedback
about it counts only for the key that gave it. A feedback whose tags hold ``reference`` binds its
target to that outside reference, and later feedback about the reference is about the target.
"""

from collections.abc import Iterable

import sqlalchemy as sa

from appliance.core.records import Feedback, decode
from appliance.core.tables import feedback, trajectories, turns


def reference_of(record: Feedback) -> str | None:
    """The outside reference that a feedback is about, or binds its target to."""
    return record.target.reference or record.tags.get("reference")


def trajectories_of(connection: sa.Connection, record: Feedback) -> set[str]:
    """Ids of the trajectories that exist and that this feedback is about."""
    target = record.target
    if target.turn_id is not None:
        query = sa.select(turns.c.trajectory_id).where(turns.c.turn_id == target.turn_id)
        return set(connection.execute(query).scalars())
    if target.trajectory_id is not None:
        query = sa.select(trajectories.c.trajectory_id).where(
            trajectories.c.trajectory_id == target.trajectory_id
        )
        return set(connection.execute(query).scalars())
    if target.session is not None:
        return _of_session(connection, target.session, record.actor)
    rows = connection.execute(
        sa.select(feedback.c.record).where(feedback.c.reference == target.reference)
    ).scalars()
    bound = [f for f in _decoded(rows) if f.target.reference is None]
    return {found for f in bound for found in trajectories_of(connection, f)}


def feedback_of(connection: sa.Connection, trajectory_id: str) -> list[Feedback]:
    """All feedback about one trajectory, oldest first."""
    rows = connection.execute(
        sa.select(turns.c.turn_id, turns.c.session, turns.c.key_id).where(
            turns.c.trajectory_id == trajectory_id
        )
    ).all()
    turn_ids = [row.turn_id for row in rows]
    sessions = {row.session: row.key_id for row in rows if row.session is not None}
    f = feedback.c
    query = sa.select(f.record).where(
        (f.trajectory_id == trajectory_id) | f.turn_id.in_(turn_ids) | f.session.in_(sessions)
    )
    found = list(_decoded(connection.execute(query).scalars()))
    found = [
        one
        for one in found
        if one.target.session is None
        or trajectory_id in _of_session(connection, one.target.session, one.actor)
    ]
    references = {reference for one in found if (reference := reference_of(one))}
    if references:
        rest = connection.execute(sa.select(f.record).where(f.reference.in_(references))).scalars()
        found += [one for one in _decoded(rest) if one.target.reference is not None]
    return sorted(found, key=lambda one: (one.at, one.feedback_id))


def _of_session(connection: sa.Connection, session: str, actor: str) -> set[str]:
    rows = connection.execute(
        sa.select(turns.c.trajectory_id, turns.c.key_id)
        .where(turns.c.session == session)
        .distinct()
    ).all()
    if len({row.key_id for row in rows}) > 1:
        rows = [row for row in rows if row.key_id == actor]
    return {row.trajectory_id for row in rows}


def _decoded(rows: Iterable[str]) -> Iterable[Feedback]:
    return (decode(row, Feedback) for row in rows)
