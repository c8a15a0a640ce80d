"""Events into trajectories that are still open: one transaction per batch.

The key (collector, epoch, sequence) of an event is written in the same transaction as its effect,
so an event that is delivered again changes nothing; the log's offsets are committed by the caller
after that. What is not here: sealing (sealing.py), and which turn follows which (joins.py).
"""

import logging
import zlib
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from appliance.core.database import Database
from appliance.core.digests import Digest
from appliance.core.errors import IntegrityError, NotFoundError, RecordError
from appliance.core.event_log import Entry
from appliance.core.objects import ObjectStore
from appliance.core.records import Event, Feedback, Target, Turn, convert, decode, encode
from appliance.core.tables import consumed, feedback, trajectories, turns
from collectors import targets
from collectors.grouping import (
    Lengths,
    link_in_store,
    place,
    stored_turn,
    trajectory_of_root,
    trajectory_of_session,
)
from collectors.joins import Link, ids_digest, link_of, num_ids
from collectors.outcomes import tag_of, verdict
from collectors.tiers import lowest, tier_of
from policies.labels import join

_log = logging.getLogger("espalier.collectors")

# Made once: building a statement takes longer than running it.
_ADD_TURN = insert(turns).on_conflict_do_nothing()
_ADD_CONSUMED = insert(consumed).on_conflict_do_nothing()
_CURRENT = (
    sa.select(trajectories)
    .where(trajectories.c.trajectory_id == sa.bindparam("id"))
    .order_by(trajectories.c.version.desc())
    .limit(1)
)


class Applied(msgspec.Struct, kw_only=True):
    """What a batch did."""

    events: int = 0
    duplicates: int = 0
    turns: int = 0
    feedback: int = 0
    unreadable: int = 0
    """Kept as objects, named in the process's log."""


class Assembly:
    """Takes events in. One at a time per home (the service holds a lock)."""

    def __init__(self, database: Database, objects: ObjectStore) -> None:
        self._database = database
        self._objects = objects
        self._lengths = Lengths()

    def apply(self, entries: Sequence[Entry], *, now: float) -> Applied:
        """Make the events' effect durable; delivered again, they change nothing.

        Raises:
            UnavailableError: the disk is full; nothing changed, apply the same entries again.
        """
        applied = Applied(events=len(entries))
        events = [event for entry in entries if (event := self._decode(entry, applied))]
        taken = [self._resolve(event, applied) for event in events]
        blobs = [data for event in events for data in event.blobs.values()]
        self._objects.put_many(blobs)
        with self._database.write() as connection:
            desk = _Desk(connection, self._objects, self._lengths, now)
            for event, record in zip(events, taken, strict=True):
                if record is None:
                    continue
                if not _first_time(connection, event):
                    applied.duplicates += 1
                elif isinstance(record, Turn):
                    applied.turns += desk.take_turn(record)
                elif isinstance(record, Feedback):
                    applied.feedback += desk.take_feedback(record)
                else:
                    desk.take_end(record)
            desk.put_back()
        return applied

    def _decode(self, entry: Entry, applied: Applied) -> Event | None:
        try:
            return decode(entry.value, Event)
        except RecordError as error:
            self._set_aside(entry.value, applied, error)
            return None

    def _resolve(self, event: Event, applied: Applied) -> Turn | Feedback | Target | None:
        """The record inside an event; None where there is none that can be read."""
        body = event.record
        try:
            if isinstance(body, dict) and set(body) == {"object"}:
                body = msgspec.json.decode(self._objects.get(Digest(body["object"])))
            if event.kind == "turn":
                return convert(body, Turn)
            if event.kind == "feedback":
                return convert(body, Feedback)
            return convert(body, Target)
        except (RecordError, NotFoundError, IntegrityError, msgspec.DecodeError) as error:
            self._set_aside(encode(event), applied, error)
            return None

    def _set_aside(self, data: bytes, applied: Applied, error: Exception) -> None:
        applied.unreadable += 1
        kept = self._objects.put(data)
        _log.error("an event cannot be read, kept as object %s: %s", kept, error)


class _Desk:
    """The rows that one batch works on."""

    def __init__(
        self, connection: sa.Connection, objects: ObjectStore, lengths: Lengths, now: float
    ) -> None:
        self._connection = connection
        self._objects = objects
        self._now = now
        self._rows: dict[str, dict[str, Any] | None] = {}
        self._retold: set[str] = set()
        self._swallowed: set[str] = set()
        self._lengths = lengths

    def take_turn(self, turn: Turn) -> bool:
        """Put a turn into its trajectory; False where it is there already."""
        link = self._link(turn)
        key_id = turn.who.key_id
        if turn.session is not None:
            trajectory_id = trajectory_of_session(key_id, turn.session)
        else:
            trajectory_id = trajectory_of_root(key_id, turn.turn_id)
        row = {
            "turn_id": turn.turn_id,
            "choice": turn.choice,
            "trajectory_id": trajectory_id,
            "key_id": key_id,
            "session": turn.session,
            "adapter": turn.adapter,
            "num_end_ids": num_ids(link.end_ids),
            "end_ids": ids_digest(link.end_ids) if link.end_ids is not None else None,
            "end_text": link.texts[-1],
            "record": zlib.compress(encode(turn), 1),
            "started_at": turn.started_at,
            "ended_at": turn.ended_at,
        }
        if not self._connection.execute(_ADD_TURN, row).rowcount:
            return False
        if turn.session is None:
            trajectory_id = self._join(turn, link, trajectory_id)
        self._grow(trajectory_id, turn)
        for other in sorted(self._swallowed):
            self._merge(other, trajectory_id)
        self._swallowed.clear()
        return True

    def take_feedback(self, record: Feedback) -> bool:
        """Keep a feedback and reopen what it is about; False where it is here already."""
        inserted = self._connection.execute(
            insert(feedback)
            .values(
                feedback_id=_own_id(record),
                turn_id=record.target.turn_id,
                trajectory_id=record.target.trajectory_id,
                session=record.target.session,
                reference=targets.reference_of(record),
                kind=record.kind,
                record=encode(record).decode(),
                at=record.at,
            )
            .on_conflict_do_nothing()
        )
        if not inserted.rowcount:
            return False
        for trajectory_id in targets.trajectories_of(self._connection, record):
            self._reopen(trajectory_id)
            self._retold.add(trajectory_id)
        return True

    def take_end(self, target: Target) -> None:
        """An announced end: sealed at the next pass, however short the silence."""
        about = Feedback(
            feedback_id="", target=target, kind="comment", source="code", actor="", at=self._now
        )
        for trajectory_id in targets.trajectories_of(self._connection, about):
            row = self._row(trajectory_id)
            if row is not None and row["state"] == "open":
                row["state"] = "ending"

    def put_back(self) -> None:
        """Write every row that was changed."""
        for trajectory_id in self._retold:
            self._retell(trajectory_id)
        rows = [row for row in self._rows.values() if row is not None]
        if rows:
            statement = insert(trajectories)
            changed = {
                column.name: statement.excluded[column.name]
                for column in trajectories.c
                if not column.primary_key
            }
            statement = statement.on_conflict_do_update(
                index_elements=["trajectory_id", "version"], set_=changed
            )
            self._connection.execute(statement, rows)

    def _join(self, turn: Turn, link: Link, own: str) -> str:
        """The trajectory of a turn without a session; `own` is the one it would start."""
        trajectory_id, self._swallowed = place(
            self._connection, self._objects, turn, link, self._lengths
        )
        if trajectory_id != own:
            self._connection.execute(
                sa.update(turns)
                .where(turns.c.turn_id == turn.turn_id, turns.c.choice == turn.choice)
                .values(trajectory_id=trajectory_id)
            )
        return trajectory_id

    def _link(self, turn: Turn) -> Link:
        # A session alone says where a turn belongs; its ids are looked at when it is sealed.
        if turn.session is not None:
            return link_of(turn, None, None)
        return link_in_store(self._objects, turn)

    def _row(self, trajectory_id: str) -> dict[str, Any] | None:
        """The current version's row."""
        if trajectory_id not in self._rows:
            found = self._connection.execute(_CURRENT, {"id": trajectory_id}).first()
            self._rows[trajectory_id] = dict(found._mapping) if found else None
        return self._rows[trajectory_id]

    def _grow(self, trajectory_id: str, turn: Turn) -> None:
        row = self._reopen(trajectory_id)
        if row is None:
            row = {
                "trajectory_id": trajectory_id,
                "version": 1,
                "state": "open",
                "key_id": turn.who.key_id,
                "team": turn.who.team,
                "project": turn.who.project,
                "agent": turn.who.agent,
                "label": turn.label,
                "tier": tier_of(turn),
                "outcome": "unknown",
                "task": None,
                "family": None,
                "num_turns": 0,
                "adapter": None,
                "object": None,
                "part": None,
                "last_turn_at": turn.ended_at,
                "changed_at": self._now,
                "sealed_at": None,
            }
            self._rows[trajectory_id] = row
            self._retold.add(trajectory_id)
        row["num_turns"] += 1
        row["adapter"] = turn.adapter or row["adapter"]
        row["tier"] = lowest([row["tier"], tier_of(turn)])
        row["label"] = join([row["label"], turn.label])
        row["last_turn_at"] = max(row["last_turn_at"], turn.ended_at)

    def _reopen(self, trajectory_id: str) -> dict[str, Any] | None:
        """The row of a version that is open: after a sealed one, the next."""
        row = self._row(trajectory_id)
        if row is None:
            return None
        if row["state"] == "sealed":
            fresh = {"version": row["version"] + 1, "state": "open"}
            row = {**row, **fresh, "object": None, "part": None, "sealed_at": None}
            self._rows[trajectory_id] = row
        row["changed_at"] = self._now
        return row

    def _merge(self, other: str, into: str) -> None:
        """A late turn turned out to be the start of another trajectory: they are one."""
        gone, kept = self._row(other), self._row(into)
        if gone is None or kept is None:
            return
        kept["num_turns"] += gone["num_turns"]
        kept["adapter"] = kept["adapter"] or gone["adapter"]
        kept["tier"] = lowest([kept["tier"], gone["tier"]])
        kept["label"] = join([kept["label"], gone["label"]])
        kept["last_turn_at"] = max(kept["last_turn_at"], gone["last_turn_at"])
        self._retold.discard(other)
        self._retold.add(into)
        self._move_turns(other, into)
        # A sealed version stays readable under its name, because datasets may hold it.
        self._rows[other] = None
        mine = trajectories.c.trajectory_id == other
        self._connection.execute(
            sa.delete(trajectories).where(mine, trajectories.c.object.is_(None))
        )
        self._connection.execute(sa.update(trajectories).where(mine).values(state="merged"))

    def _move_turns(self, other: str, into: str) -> None:
        mine = turns.c.trajectory_id == other
        for row in self._connection.execute(sa.select(turns).where(mine)).all():
            turn = stored_turn(self._connection, self._objects, row)
            self._connection.execute(
                sa.update(turns)
                .where(turns.c.turn_id == row.turn_id, turns.c.choice == row.choice)
                .values(trajectory_id=into, record=zlib.compress(encode(turn), 1))
            )

    def _retell(self, trajectory_id: str) -> None:
        """What the feedback so far says of an open trajectory; sealing looks more closely."""
        row = self._rows.get(trajectory_id)
        if row is None:
            return
        said = targets.feedback_of(self._connection, trajectory_id)
        row["outcome"] = verdict(f for f in said if f.target.turn_id is None) or "unknown"
        row["task"] = tag_of(said, "task")
        row["family"] = tag_of(said, "family")


def _own_id(record: Feedback) -> str:
    """A feedback's id belongs to the key that chose it: two teams may both count from 1."""
    return f"{record.actor}/{record.feedback_id}"


def _first_time(connection: sa.Connection, event: Event) -> bool:
    key = {"collector": event.collector, "epoch": event.epoch, "sequence": event.sequence}
    return bool(connection.execute(_ADD_CONSUMED, key).rowcount)
