"""Which trajectory a turn belongs to.

With a session header: that of (key, session). Without one: that of the turn it goes on from under
the same key, else a new one named after itself. A turn that comes late may be the start of what
already stands as a trajectory of its own; then the two are one, named after the late turn, as they
would have been had it come first.
"""

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from appliance.core.digests import Digest
from appliance.core.objects import ObjectStore
from appliance.core.records import ArrayRef, Trajectory, Turn, decode
from appliance.core.tables import trajectories, turns
from collectors.joins import Link, goes_on, link_of, preference, prefix_digests

_ID_BYTES = 4
_IN_MAX = 500

_mine = (turns.c.key_id == sa.bindparam("key")) & turns.c.session.is_(None)
_ends: sa.BindParameter[str] = sa.bindparam("ends", expanding=True)
# Made once: building a statement takes longer than running it.
_LENGTHS = sa.select(turns.c.num_end_ids).where(_mine, turns.c.num_end_ids.is_not(None)).distinct()
_END_IDS = sa.select(turns).where(_mine, turns.c.end_ids.in_(_ends))
_END_TEXTS = sa.select(turns).where(_mine, turns.c.end_text.in_(_ends))
_SINCE = sa.select(turns).where(_mine, turns.c.started_at >= sa.bindparam("since"))


def trajectory_of_session(key_id: str, session: str) -> str:
    """The id of the trajectory of a session; a session's name belongs to its key."""
    return _named("session", key_id, session)


def trajectory_of_root(key_id: str, turn_id: str) -> str:
    """The id of a trajectory that starts with this turn."""
    return _named("root", key_id, turn_id)


class Lengths:
    """For each key, the lengths in tokens at which one of its turns ends.

    Read once from the table and then kept up by the one process that writes it; a length too many,
    after a transaction that failed, costs one look.
    """

    def __init__(self) -> None:
        self._by_key: dict[str, set[int]] = {}

    def of(self, connection: sa.Connection, key_id: str) -> set[int]:
        """The lengths under one key."""
        if key_id not in self._by_key:
            found = connection.execute(_LENGTHS, {"key": key_id}).scalars()
            self._by_key[key_id] = set(found)
        return self._by_key[key_id]


def place(
    connection: sa.Connection, objects: ObjectStore, turn: Turn, link: Link, lengths: Lengths
) -> tuple[str, set[str]]:
    """The trajectory of a turn without a session, and those that must now become part of it."""
    key_id = turn.who.key_id
    known = lengths.of(connection, key_id)
    earlier = []
    for row in _possible_parents(connection, turn, link, known):
        found = link_in_store(objects, stored_turn(connection, objects, row))
        if goes_on(link, found):
            earlier.append((found, row.trajectory_id))
    chosen = max(earlier, key=lambda pair: preference(link, pair[0]), default=None)
    trajectory_id = chosen[1] if chosen else trajectory_of_root(key_id, turn.turn_id)
    later = {
        row.trajectory_id
        for row in _roots_since(connection, turn)
        if goes_on(link_in_store(objects, stored_turn(connection, objects, row)), link)
    }
    if link.end_ids is not None:
        known.add(len(link.end_ids) // _ID_BYTES)
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


def _possible_parents(
    connection: sa.Connection, turn: Turn, link: Link, lengths: set[int]
) -> list[Any]:
    """Rows whose end is, by digest, a prefix of this turn's prompt."""
    prompt = link.prompt_ids or b""
    ends = [n * _ID_BYTES for n in sorted(lengths) if n * _ID_BYTES <= len(prompt)]
    key = {"key": turn.who.key_id}
    rows: dict[tuple[str, int], Any] = {}
    # SQLite takes only so many values in one statement.
    for some in _slices(prefix_digests(prompt, ends)):
        found = connection.execute(_END_IDS, {**key, "ends": some}).all()
        rows |= {(row.turn_id, row.choice): row for row in found}
    for some in _slices(link.texts[:-1]):
        found = connection.execute(_END_TEXTS, {**key, "ends": some}).all()
        rows |= {(row.turn_id, row.choice): row for row in found}
    rows.pop((turn.turn_id, turn.choice), None)
    return list(rows.values())


def _roots_since(connection: sa.Connection, turn: Turn) -> list[Any]:
    """First turns of trajectories that began after this turn did."""
    key_id = turn.who.key_id
    since = {"key": key_id, "since": turn.started_at}
    return [
        row
        for row in connection.execute(_SINCE, since).all()
        if row.turn_id != turn.turn_id
        and row.trajectory_id == trajectory_of_root(key_id, row.turn_id)
    ]


def _slices(values: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(values), _IN_MAX):
        yield list(values[start : start + _IN_MAX])


def _named(*parts: str) -> str:
    return "t-" + hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:24]
