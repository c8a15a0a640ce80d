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

_ID: sa.BindParameter[str] = sa.bindparam("id")
# Made once: building a statement takes longer than running it.
_OF_TURN = sa.select(turns.c.trajectory_id).where(turns.c.turn_id == _ID)
_OF_TRAJECTORY = sa.select(trajectories.c.trajectory_id).where(trajectories.c.trajectory_id == _ID)
_OF_SESSION = (
    sa.select(turns.c.trajectory_id, turns.c.key_id).where(turns.c.session == _ID).distinct()
)
_SAID_WITH_REFERENCE = sa.select(feedback.c.record).where(feedback.c.reference == _ID)
_TURNS = sa.select(turns.c.turn_id, turns.c.session).where(turns.c.trajectory_id == _ID)
_SAID = sa.select(feedback.c.record).where(
    (feedback.c.trajectory_id == _ID)
    | feedback.c.turn_id.in_(sa.bindparam("turn_ids", expanding=True))
    | feedback.c.session.in_(sa.bindparam("sessions", expanding=True))
)


def reference_of(record: Feedback) -> str | None:
    """The outside reference that a feedback is about, or binds its target to."""
    return record.target.reference or record.tags.get("reference")


def trajectories_of(connection: sa.Connection, record: Feedback) -> set[str]:
    """Ids of the trajectories that exist and that this feedback is about."""
    target = record.target
    if target.turn_id is not None:
        return set(connection.execute(_OF_TURN, {"id": target.turn_id}).scalars())
    if target.trajectory_id is not None:
        return set(connection.execute(_OF_TRAJECTORY, {"id": target.trajectory_id}).scalars())
    if target.session is not None:
        return _of_session(connection, target.session, record.actor)
    said = _decoded(connection.execute(_SAID_WITH_REFERENCE, {"id": target.reference}).scalars())
    bound = [one for one in said if one.target.reference is None]
    return {found for one in bound for found in trajectories_of(connection, one)}


def feedback_of(connection: sa.Connection, trajectory_id: str) -> list[Feedback]:
    """All feedback about one trajectory, oldest first."""
    rows = connection.execute(_TURNS, {"id": trajectory_id}).all()
    about = {
        "id": trajectory_id,
        "turn_ids": [row.turn_id for row in rows],
        "sessions": list({row.session for row in rows if row.session is not None}),
    }
    found = [
        one
        for one in _decoded(connection.execute(_SAID, about).scalars())
        if one.target.session is None
        or trajectory_id in _of_session(connection, one.target.session, one.actor)
    ]
    for reference in sorted({name for one in found if (name := reference_of(one))}):
        rest = connection.execute(_SAID_WITH_REFERENCE, {"id": reference}).scalars()
        found += [one for one in _decoded(rest) if one.target.reference is not None]
    return sorted(found, key=lambda one: (one.at, one.feedback_id))


def _of_session(connection: sa.Connection, session: str, actor: str) -> set[str]:
    rows = connection.execute(_OF_SESSION, {"id": session}).all()
    if len({row.key_id for row in rows}) > 1:
        rows = [row for row in rows if row.key_id == actor]
    return {row.trajectory_id for row in rows}


def _decoded(rows: Iterable[str]) -> Iterable[Feedback]:
    return (decode(row, Feedback) for row in rows)
