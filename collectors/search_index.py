"""The words that a sealed trajectory is found by, written in the transaction that seals it.

One row for each trajectory: a later version takes its place. What is not here: searching (the
control plane's), and who may see what is found.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from appliance.core.database import Database
from appliance.core.digests import Digest
from appliance.core.errors import IntegrityError, NotFoundError
from appliance.core.folding import fold, fold_together
from appliance.core.objects import ObjectStore
from appliance.core.records import Json, Trajectory, decode
from appliance.core.tables import trajectories, trajectory_texts

_log = logging.getLogger("espalier.collectors")

MAX_CHARACTERS = 4000

_BATCH = 256
_ROLES = ("user", "assistant")

# Made once: building a statement takes longer than running it.
_NAME = insert(trajectory_texts).on_conflict_do_nothing()
_NUMBERS = sa.select(trajectory_texts.c.trajectory_id, trajectory_texts.c.number).where(
    trajectory_texts.c.trajectory_id.in_(sa.bindparam("ids", expanding=True))
)
_PUT = sa.text("INSERT OR REPLACE INTO trajectory_search (rowid, body) VALUES (:number, :body)")
_later = trajectories.alias("later")
_NOT_YET = (
    sa.select(trajectories.c.trajectory_id, trajectories.c.object)
    .where(
        trajectories.c.trajectory_id > sa.bindparam("after"),
        trajectories.c.object.is_not(None),
        trajectories.c.state != "merged",
        ~sa.exists().where(
            _later.c.trajectory_id == trajectories.c.trajectory_id,
            _later.c.version > trajectories.c.version,
            _later.c.object.is_not(None),
        ),
        ~sa.exists().where(trajectory_texts.c.trajectory_id == trajectories.c.trajectory_id),
    )
    .order_by(trajectories.c.trajectory_id)
    .limit(_BATCH)
)


def words_of(trajectory: Trajectory) -> str:
    """What the user and the assistant said, cut, then task, family and agent."""
    said = fold_together(_said(trajectory), max_characters=MAX_CHARACTERS)
    names = (trajectory.task, trajectory.family, trajectory.who.agent)
    return " ".join([said, *(fold(name) for name in names if name)]).strip()


def put_words(connection: sa.Connection, sealed: Sequence[Trajectory]) -> None:
    """Make these trajectories be found by their words, and no longer by an earlier version's."""
    if not sealed:
        return
    # What ended last is found first.
    ids = [one.trajectory_id for one in sorted(sealed, key=_ended_at)]
    connection.execute(_NAME, [{"trajectory_id": name} for name in ids])
    found = connection.execute(_NUMBERS, {"ids": ids}).all()
    numbers = {row.trajectory_id: row.number for row in found}
    rows: list[dict[str, Any]] = [
        {"number": numbers[one.trajectory_id], "body": words_of(one)} for one in sealed
    ]
    # In rising order: a row before the last one would have the index write a segment of its own.
    connection.execute(_PUT, sorted(rows, key=lambda row: row["number"]))


def mend(database: Database, objects: ObjectStore) -> Iterator[int]:
    """Do it for what was sealed before there was an index: a batch at each step, and its size."""
    after = ""
    while True:
        with database.read() as connection:
            rows = connection.execute(_NOT_YET, {"after": after}).all()
        if not rows:
            return
        after = rows[-1].trajectory_id
        sealed = [one for row in rows if (one := _sealed(objects, Digest(row.object)))]
        with database.write() as connection:
            # Meanwhile a later version may have been sealed; its words stay.
            there = connection.execute(_NUMBERS, {"ids": [one.trajectory_id for one in sealed]})
            known = {row.trajectory_id for row in there}
            put_words(connection, [one for one in sealed if one.trajectory_id not in known])
        yield len(rows)


def _sealed(objects: ObjectStore, digest: Digest) -> Trajectory | None:
    try:
        return decode(objects.get(digest), Trajectory)
    except (IntegrityError, NotFoundError) as error:
        # Work goes on without being able to find this one; whoever reads it is told more.
        _log.error("a sealed trajectory cannot be read: %s", error)
        return None


def _said(trajectory: Trajectory) -> Iterator[str]:
    """Each text once, though every request repeats the conversation before it."""
    seen: set[str] = set()
    for node in trajectory.nodes:
        for message in (*node.turn.messages, node.turn.answer):
            if isinstance(message, dict) and message.get("role") in _ROLES:
                for text in _texts(message.get("content")):
                    if text not in seen:
                        seen.add(text)
                        yield text


def _texts(content: Json) -> Iterable[str]:
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list | tuple) else ()
    texts = (part.get("text") for part in parts if isinstance(part, dict))
    return [text for text in texts if isinstance(text, str)]


def _ended_at(trajectory: Trajectory) -> float:
    return max(node.turn.ended_at for node in trajectory.nodes)
