"""Which trajectory a turn belongs to.

With a session header: that of (key, session). Without one: that of the turn it goes on from under
the same key, else a new one named after itself. A turn that comes late may be the start of what
already stands as a trajectory of its own; then the two are one, named after the late turn, as they
would have been had it come first.
"""

import hashlib
import zlib
from typing import Any

import msgspec
import sqlalchemy as sa

from appliance.core.digests import Digest
from appliance.core.objects import ObjectStore
from appliance.core.records import ArrayRef, Trajectory, Turn, decode
from appliance.core.tables import trajectories, turns
from collectors.joins import Link, goes_on, ids_digest, link_of, preference

_ID_BYTES = 4


def trajectory_of_session(key_id: str, session: str) -> str:
    """The id of the trajectory of a session; a session's name belongs to its key."""
    return _named("session", key_id, session)


def trajectory_of_root(key_id: str, turn_id: str) -> str:
    """The id of a trajectory that starts with this turn."""
    return _named("root", key_id, turn_id)


def place(
    connection: sa.Connection, objects: ObjectStore, turn: Turn, link: Link
) -> tuple[str, set[str]]:
    """The trajectory of a turn without a session, and those that must now become part of it."""
    key_id = turn.who.key_id
    own = trajectory_of_root(key_id, turn.turn_id)
    earlier = [
        (found_link, row.trajectory_id)
        for row in _possible_parents(connection, key_id, turn, link)
        if goes_on(
            link, found_link := link_in_store(objects, stored_turn(connection, objects, row))
        )
    ]
    chosen = max(earlier, key=lambda pair: preference(link, pair[0]), default=None)
    trajectory_id = chosen[1] if chosen else own
    later = {
        row.trajectory_id
        for row in _roots_since(connection, key_id, turn)
        if goes_on(link_in_store(objects, stored_turn(connection, objects, row)), link)
    }
    return trajectory_id, later - {trajectory_id}


def stored_turn(connection: sa.Connection, objects: ObjectStore, row: Any) -> Turn:
    """The turn of a row of `turns`: its own record, or the one inside its sealed trajectory."""
    if row.record is not None:
        return decode(zlib.decompress(row.record), Turn)
    sealed = connection.execute(
        sa.select(trajectories.c.object)
        .where(
            trajectories.c.trajectory_id == row.trajectory_id, trajectories.c.object.is_not(None)
        )
        .order_by(trajectories.c.version.desc())
        .limit(1)
    ).scalar_one()
    trajectory = decode(objects.get(Digest(sealed)), Trajectory)
    return next(
        node.turn
        for node in trajectory.nodes
        if (node.turn.turn_id, node.turn.choice) == (row.turn_id, row.choice)
    )


def link_in_store(objects: ObjectStore, turn: Turn) -> Link:
    """The link of a turn whose arrays are in the object store."""
    return link_of(
        turn, array_bytes(objects, turn.prompt_ids), array_bytes(objects, turn.answer_ids)
    )


def array_bytes(objects: ObjectStore, ref: ArrayRef | None) -> bytes | None:
    """An array's bytes, verified; None for none."""
    return None if ref is None else objects.get(ref.digest_of_bytes)


def _possible_parents(connection: sa.Connection, key_id: str, turn: Turn, link: Link) -> list[Any]:
    """Rows whose end is, by digest, a prefix of this turn's prompt."""
    mine = (turns.c.key_id == key_id) & turns.c.session.is_(None)
    fits: sa.ColumnElement[bool] = turns.c.end_text.in_(link.texts[:-1])
    if link.prompt_ids is not None:
        prompt = memoryview(link.prompt_ids)
        lengths = connection.execute(
            sa.select(turns.c.num_end_ids)
            .where(mine, turns.c.num_end_ids <= len(prompt) // _ID_BYTES)
            .distinct()
        ).scalars()
        digests = {ids_digest(prompt[: n * _ID_BYTES]) for n in lengths}
        fits |= turns.c.end_ids.in_(digests)
    not_itself = (turns.c.turn_id != turn.turn_id) | (turns.c.choice != turn.choice)
    return list(connection.execute(sa.select(turns).where(mine, fits, not_itself)).all())


def _roots_since(connection: sa.Connection, key_id: str, turn: Turn) -> list[Any]:
    """First turns of trajectories that began after this turn did."""
    rows = connection.execute(
        sa.select(turns).where(
            turns.c.key_id == key_id,
            turns.c.session.is_(None),
            turns.c.started_at >= turn.started_at,
            turns.c.turn_id != turn.turn_id,
        )
    ).all()
    return [r for r in rows if r.trajectory_id == trajectory_of_root(key_id, r.turn_id)]


def _named(*parts: str) -> str:
    return "t-" + hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:24]
