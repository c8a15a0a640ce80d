"""The storm's own parts; `make storm` runs it (minutes, so not here)."""

from collections import Counter

import pytest

from policies.lifecycle import State
from tests.storm.books import tally
from tests.storm.ledger import Ledger
from tests.storm.plan import draw


@pytest.mark.parametrize("seed", range(20))
def test_twenty_kills_strike_each_process_twice(seed: int) -> None:
    kills = draw(seed, 20)
    assert len(kills) == 20
    counts = Counter(kill.process for kill in kills)
    assert set(counts) == {
        "supervisor", "engine", "collectors", "serving", "control", "curate", "train", "evaluate"
    }  # fmt: skip
    assert min(counts.values()) >= 2
    assert all(kill.state in set(State) for kill in kills if kill.phase == "after")


def test_a_seed_draws_the_same_moments_again() -> None:
    assert draw(7, 20) == draw(7, 20)
    assert draw(7, 20) != draw(8, 20)


def test_what_is_before_sealing_comes_first_and_in_order() -> None:
    phases = [kill.phase for kill in draw(3, 20)]
    assert phases == sorted(phases, reverse=True)
    shares = [kill.share for kill in draw(3, 20) if kill.phase == "before"]
    assert shares == sorted(shares)


@pytest.mark.parametrize(
    ("place", "in_the_lake", "lost", "doubled", "unacknowledged"),
    [
        ({"t1": 1, "f1": 1}, {"t1": 1}, set(), set(), 0),
        ({"f1": 1}, {"t1": 1}, {"t1"}, set(), 0),
        ({"t1": 1}, {"t1": 1}, {"f1"}, set(), 0),
        ({"t1": 1, "f1": 1}, {}, {"t1"}, set(), 0),
        ({"t1": 2, "f1": 1}, {"t1": 1}, set(), {"t1"}, 0),
        ({"t1": 1, "f1": 2}, {"t1": 1}, set(), {"f1"}, 0),
        ({"t1": 1, "f1": 1}, {"t1": 2}, set(), {"t1"}, 0),
        ({"t1": 1, "f1": 1, "t2": 1}, {"t1": 1, "t2": 1}, set(), set(), 1),
        ({"t1": 1, "f1": 1, "t2": 2}, {"t1": 1, "t2": 1}, set(), {"t2"}, 1),
    ],
    ids=[
        "all there", "turn gone", "feedback gone", "not in the lake", "turn twice",
        "feedback twice", "twice in the lake", "nobody has it", "nobody has it, twice",
    ],
)  # fmt: skip
def test_what_is_not_there_once_is_named(
    place: dict[str, int],
    in_the_lake: dict[str, int],
    lost: set[str],
    doubled: set[str],
    unacknowledged: int,
) -> None:
    ledger = Ledger(turns={"t1": "x += 1"}, feedback={"f1"})
    account = tally(ledger, Counter(place), Counter(in_the_lake))
    assert (account.lost, account.doubled) == (lost, doubled)
    assert account.unacknowledged == unacknowledged
