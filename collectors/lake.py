"""The lake's Parquet files: one row per sealed trajectory version, and one per turn of it.

``lake/trajectories/day=YYYY-MM-DD/<part>.parquet`` and ``lake/turns/…`` likewise, by day of
sealing (UTC). A part's name and rows follow from what was sealed together, so a file that a kill
prevented is written at the next start, and one that exists is never written again. Prompts and
answers stay in the objects that the rows name.
"""

import datetime as dt
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq
import sqlalchemy as sa

from appliance.core.database import Database
from appliance.core.digests import Digest
from appliance.core.files import publish
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.records import Trajectory, decode
from appliance.core.tables import trajectories
from collectors.sealing import Sealed

TRAJECTORY_COLUMNS = pa.schema(
    [
        ("trajectory_id", pa.string()),
        ("version", pa.int32()),
        ("object", pa.string()),
        ("team", pa.string()),
        ("project", pa.string()),
        ("agent", pa.string()),
        ("label", pa.string()),
        ("tier", pa.string()),
        ("outcome", pa.string()),
        ("task", pa.string()),
        ("family", pa.string()),
        ("num_turns", pa.int32()),
        ("num_feedback", pa.int32()),
        ("sealed_at", pa.timestamp("us", tz="UTC")),
    ]
)
TURN_COLUMNS = pa.schema(
    [
        ("trajectory_id", pa.string()),
        ("version", pa.int32()),
        ("node", pa.int32()),
        ("parent", pa.int32()),
        ("turn_id", pa.string()),
        ("choice", pa.int32()),
        ("session", pa.string()),
        ("base", pa.string()),
        ("adapter", pa.string()),
        ("tier", pa.string()),
        ("trainable", pa.bool_()),
        ("finish_reason", pa.string()),
        ("num_messages", pa.int32()),
        ("num_prompt_tokens", pa.int32()),
        ("num_answer_tokens", pa.int32()),
        ("redacted", pa.list_(pa.string())),
        ("origin", pa.string()),
        ("started_at", pa.timestamp("us", tz="UTC")),
        ("ended_at", pa.timestamp("us", tz="UTC")),
    ]
)


class Lake:
    """Writes the Parquet files of a home."""

    def __init__(self, home: Home, database: Database, objects: ObjectStore) -> None:
        self._root = home.lake
        self._database = database
        self._objects = objects

    def add(self, sealed: Sequence[Sealed]) -> None:
        """Publish the two files of one part, each in one step."""
        if not sealed:
            return
        part = sealed[0].part
        day = _time(sealed[0].trajectory.sealed_at).strftime("%Y-%m-%d")
        rows = [_trajectory_row(one.trajectory, one.object) for one in sealed]
        turns = [row for one in sealed for row in _turn_rows(one.trajectory)]
        self._publish(self._path("turns", day, part), turns, TURN_COLUMNS)
        # Last, because `mend` looks for this one.
        self._publish(self._path("trajectories", day, part), rows, TRAJECTORY_COLUMNS)

    def mend(self) -> int:
        """Write the parts that were sealed but not published; returns how many."""
        there = {path.stem for path in (self._root / "trajectories").glob("day=*/*.parquet")}
        t = trajectories.c
        with self._database.read() as connection:
            query = sa.select(t.part).where(t.part.is_not(None)).distinct()
            missing = sorted(set(connection.execute(query).scalars()) - there)
            for part in missing:
                rows = connection.execute(
                    sa.select(t.object).where(t.part == part).order_by(t.trajectory_id)
                ).scalars()
                self.add([self._sealed(Digest(digest), part) for digest in rows])
        return len(missing)

    def _sealed(self, digest: Digest, part: str) -> Sealed:
        trajectory = decode(self._objects.get(digest), Trajectory)
        return Sealed(trajectory=trajectory, object=digest, part=part)

    def _path(self, kind: str, day: str, part: str) -> Path:
        return self._root / kind / f"day={day}" / f"{part}.parquet"

    def _publish(self, path: Path, rows: Iterable[dict[str, Any]], columns: pa.Schema) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # By way of JSON: pyarrow's own conversion of Python values imports pandas, for seconds.
        lines = b"\n".join(msgspec.json.encode(row) for row in rows)
        strict = pj.ParseOptions(explicit_schema=columns, unexpected_field_behavior="error")
        block = pj.ReadOptions(block_size=len(lines) + 1)
        table = pj.read_json(io.BytesIO(lines), parse_options=strict, read_options=block)
        sink = io.BytesIO()
        pq.write_table(table.cast(columns), sink, compression="zstd")
        publish(path, sink.getvalue())


def _trajectory_row(trajectory: Trajectory, digest: Digest) -> dict[str, Any]:
    return {
        "trajectory_id": trajectory.trajectory_id,
        "version": trajectory.version,
        "object": digest,
        "team": trajectory.who.team,
        "project": trajectory.who.project,
        "agent": trajectory.who.agent,
        "label": trajectory.label,
        "tier": trajectory.tier,
        "outcome": trajectory.outcome,
        "task": trajectory.task,
        "family": trajectory.family,
        "num_turns": len(trajectory.nodes),
        "num_feedback": len(trajectory.feedback),
        "sealed_at": _time(trajectory.sealed_at),
    }


def _turn_rows(trajectory: Trajectory) -> Iterable[dict[str, Any]]:
    for number, node in enumerate(trajectory.nodes):
        turn = node.turn
        yield {
            "trajectory_id": trajectory.trajectory_id,
            "version": trajectory.version,
            "node": number,
            "parent": node.parent,
            "turn_id": turn.turn_id,
            "choice": turn.choice,
            "session": turn.session,
            "base": turn.base,
            "adapter": turn.adapter,
            "tier": node.tier,
            "trainable": node.trainable,
            "finish_reason": turn.finish_reason,
            "num_messages": len(turn.messages),
            "num_prompt_tokens": turn.prompt_ids.count if turn.prompt_ids else None,
            "num_answer_tokens": turn.answer_ids.count if turn.answer_ids else None,
            "redacted": list(turn.redacted),
            "origin": turn.origin,
            "started_at": _time(turn.started_at),
            "ended_at": _time(turn.ended_at),
        }


def _time(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
