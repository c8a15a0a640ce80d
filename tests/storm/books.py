"""What the appliance has of what its clients know was acknowledged: database, objects, lake."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import duckdb
import sqlalchemy as sa

from appliance.core.database import Database
from appliance.core.digests import Digest
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.records import Feedback, Trajectory, decode
from appliance.core.tables import feedback, trajectories, turns
from tests.storm.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Account:
    """Names of what is not there exactly once."""

    lost: frozenset[str]
    doubled: frozenset[str]
    unacknowledged: int = 0
    """There, although no client had the answer: broken on its way back."""


class Books:
    """Reads a home's files; asks no process."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._database = Database.open(home.database)
        self._objects = ObjectStore(home.objects)

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def taken_in(self, ledger: Ledger) -> Account:
        """Whether the database has every acknowledged turn and feedback."""
        with self._database.read() as connection:
            have = Counter(connection.execute(sa.select(turns.c.turn_id)).scalars())
            said = connection.execute(sa.select(feedback.c.record)).scalars()
            have.update(decode(record, Feedback).feedback_id for record in said)
        return tally(ledger, have)

    def sealed(self, ledger: Ledger) -> Account:
        """Whether the newest sealed trajectories, and the lake, hold each of them once.

        A turn whose stored answer is not the text that the client got counts as lost.
        """
        t = trajectories.c
        with self._database.read() as connection:
            newest = sa.select(t.trajectory_id, sa.func.max(t.version)).group_by(t.trajectory_id)
            query = sa.select(t.trajectory_id, t.version, t.object).where(
                sa.tuple_(t.trajectory_id, t.version).in_(newest), t.state == "sealed"
            )
            rows = connection.execute(query).all()
        held: Counter[str] = Counter()
        altered = set()
        for row in rows:
            trajectory = decode(self._objects.get(Digest(row.object)), Trajectory)
            for node in trajectory.nodes:
                held[node.turn.turn_id] += 1
                expected = ledger.turns.get(node.turn.turn_id)
                said = node.turn.answer.get("content") or ""
                if expected is not None and said != expected:
                    altered.add(node.turn.turn_id)
            held.update(self._feedback(trajectory.feedback))
        account = tally(ledger, held, self._in_the_lake({tuple(row[:2]) for row in rows}))
        return Account(account.lost | altered, account.doubled, account.unacknowledged)

    def _feedback(self, digests: Iterable[Digest]) -> list[str]:
        return [decode(self._objects.get(digest), Feedback).feedback_id for digest in digests]

    def _in_the_lake(self, newest: set[tuple[str, int]]) -> "Counter[str]":
        files = str(self._home.lake / "turns" / "day=*" / "*.parquet")
        rows = duckdb.sql(
            f"SELECT trajectory_id, version, turn_id FROM read_parquet('{files}')"  # noqa: S608
        ).fetchall()
        return Counter(
            turn for trajectory, version, turn in rows if (trajectory, version) in newest
        )


def tally(
    ledger: Ledger, place: "Counter[str]", in_the_lake: "Counter[str] | None" = None
) -> Account:
    """`place` holds turns and feedback; the lake's files name turns alone."""
    promised = set(ledger.turns) | ledger.feedback
    lost = {name for name in promised if not place[name]}
    doubled = {name for name, count in place.items() if count > 1}
    if in_the_lake is not None:
        lost |= {name for name in ledger.turns if not in_the_lake[name]}
        doubled |= {name for name, count in in_the_lake.items() if count > 1}
    return Account(frozenset(lost), frozenset(doubled), len(set(place) - promised))
