"""Rounds in the database: one under way, one move at a time, and only by who holds the lease."""

import pytest
import sqlalchemy as sa

from appliance.control.rounds import LEASE_S, Order, Round, Rounds
from appliance.core import audit
from appliance.core.database import Database
from appliance.core.digests import digest_bytes
from appliance.core.errors import ConflictError, NotFoundError, RefusedError
from appliance.core.tables import rounds as table
from policies.lifecycle import State

ORDER = Order(
    recipe=digest_bytes(b"recipe"),
    gates=digest_bytes(b"gates"),
    suites={"target": digest_bytes(b"suite")},
    idle_s=0.0,
)


@pytest.fixture
def rounds(database: Database) -> Rounds:
    return Rounds(database)


def start(rounds: Rounds, at: float = 100.0) -> Round:
    return rounds.create(authors=("olga",), order=ORDER, actor="olga", at=at)


def test_a_round_and_its_audit_entry_are_one_transaction(
    rounds: Rounds, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    round_ = rounds.lease(start(rounds).round, owner="w", at=101.0)
    assert round_ is not None

    def broken(*_: object, **__: object) -> None:
        raise OSError("the disk went away between the two writes")

    with monkeypatch.context() as patch:
        patch.setattr(audit, "record", broken)
        with pytest.raises(OSError, match="went away"):
            rounds.advance(round_, State.COLLECTING, actor="w", at=102.0)
    assert rounds.get(round_.round).state is State.CREATED
    rounds.advance(round_, State.COLLECTING, actor="w", at=103.0)
    with database.read() as connection:
        assert [e.act for e in audit.entries(connection)] == ["round.create", "round.collecting"]


def test_a_worker_that_lost_its_lease_cannot_commit(rounds: Rounds) -> None:
    number = start(rounds).round
    stalled = rounds.lease(number, owner="stalled", at=101.0)
    assert stalled is not None
    assert rounds.lease(number, owner="other", at=102.0) is None
    taken = rounds.lease(number, owner="other", at=102.0 + LEASE_S)
    assert taken is not None
    assert taken.fencing > stalled.fencing
    with pytest.raises(ConflictError, match="without this worker"):
        rounds.advance(stalled, State.COLLECTING, actor="stalled", at=140.0)
    with pytest.raises(ConflictError, match="took the lease"):
        rounds.renew(stalled, at=140.0)
    assert rounds.advance(taken, State.COLLECTING, actor="other", at=141.0).state == "collecting"


def test_a_round_moves_only_as_the_life_cycle_says(rounds: Rounds) -> None:
    round_ = rounds.lease(start(rounds).round, owner="w", at=101.0)
    assert round_ is not None
    with pytest.raises(RefusedError):
        rounds.advance(round_, State.RELEASED, actor="w", at=102.0)


def test_a_round_moves_once(rounds: Rounds) -> None:
    round_ = rounds.lease(start(rounds).round, owner="w", at=101.0)
    assert round_ is not None
    rounds.advance(round_, State.COLLECTING, actor="w", at=102.0)
    with pytest.raises(ConflictError):
        rounds.advance(round_, State.COLLECTING, actor="w", at=103.0)


def test_one_round_is_under_way(rounds: Rounds) -> None:
    first = rounds.lease(start(rounds).round, owner="w", at=101.0)
    assert first is not None
    with pytest.raises(ConflictError, match="still under way"):
        start(rounds)
    rounds.advance(first, State.FAILED, actor="w", at=102.0, reason="nothing to train on")
    assert start(rounds, at=103.0).round == first.round + 1
    assert rounds.get(first.round).verdict == "failed"


def test_a_round_that_is_not_there(rounds: Rounds) -> None:
    with pytest.raises(NotFoundError, match="no round 7"):
        rounds.get(7)


def test_what_a_step_made_is_kept(rounds: Rounds, database: Database) -> None:
    round_ = rounds.lease(start(rounds).round, owner="w", at=101.0)
    assert round_ is not None
    champion = digest_bytes(b"champion")
    moved = rounds.advance(round_, State.COLLECTING, actor="w", at=102.0, champion=champion)
    assert (moved.champion, moved.order, moved.authors) == (champion, ORDER, ("olga",))
    with database.read() as connection:
        assert connection.execute(sa.select(table.c.lease_owner)).scalar_one() == "w"
