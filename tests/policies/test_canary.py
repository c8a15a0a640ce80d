"""The rollout's rule: who is in which group, what is a pair, and how much evidence pairs are."""

import math
from collections import Counter
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.errors import PolicyError
from appliance.core.settings import Metric as MetricName
from policies.canary import BUCKETS, METRICS, Trial, bucket, e_value, group

KEYS = [f"session-{n}" for n in range(20_000)]


def test_a_bucket_can_be_told_again_offline() -> None:
    # As openssl computes it: HMAC-SHA256 as one big-endian number, modulo 10,000.
    assert bucket("7f3a", "key-1/session/s-1") == 1617


def test_groups_are_as_large_as_they_say_and_do_not_meet() -> None:
    for share in (1, 5, 25, 50):
        found = Counter(group("salt", key, share) for key in KEYS)
        for side in ("candidate", "champion"):
            assert found[side] / len(KEYS) == pytest.approx(share / 100, rel=0.15)  # type: ignore[index]
    assert {group("salt", key, 0) for key in KEYS} == {None}


def test_a_session_stays_with_the_candidate_when_the_share_grows() -> None:
    early = {key for key in KEYS if group("salt", key, 5) == "candidate"}
    assert early < {key for key in KEYS if group("salt", key, 25) == "candidate"}
    other = {key for key in KEYS if group("another salt", key, 5) == "candidate"}
    assert len(early & other) < len(early) / 5


@pytest.mark.parametrize("pairs", [1, 7, 40])
def test_evidence_is_a_martingale_under_a_fair_coin(pairs: int) -> None:
    """Its mean over all ways that fair coins can fall is 1, however many there are."""
    mean = math.fsum(
        math.comb(pairs, worse) / 2**pairs * e_value(worse, pairs - worse)
        for worse in range(pairs + 1)
    )
    assert mean == pytest.approx(1.0)


def test_evidence_grows_with_harm_alone() -> None:
    assert e_value(0, 0) == 1.0
    assert e_value(20, 0) > 1e4
    assert e_value(0, 20) < 1
    assert e_value(10_000, 0) == pytest.approx(math.exp(700))


@pytest.mark.parametrize(
    ("metric", "candidate", "champion", "expected"),
    [
        ("errors", 1, 0, 1),
        ("errors", 0, 1, -1),
        ("errors", 1, 1, 0),
        ("first_token", 0.11, 0.10, 0),
        ("first_token", 0.13, 0.10, 1),
        ("first_token", 0.10, 0.13, -1),
        ("longer", 20, 10, 0),
        ("longer", 21, 10, 1),
        ("longer", 3, 0, 1),
        ("shorter", 10, 21, 1),
        ("shorter", 21, 10, -1),
        ("shorter", 10, 20, 0),
    ],
)
def test_which_answer_is_the_worse_one(
    metric: str, candidate: float, champion: float, expected: int
) -> None:
    assert METRICS[metric].worse(candidate, champion) == expected


def test_settings_name_exactly_the_metrics_that_there_are() -> None:
    assert set(get_args(MetricName)) == set(METRICS)


@pytest.mark.parametrize(
    ("metrics", "alpha"), [((), 0.05), (("errors", "speed"), 0.05), (("errors",), 0.0)]
)
def test_a_rule_that_could_not_stop_anything_is_refused(
    metrics: tuple[str, ...], alpha: float
) -> None:
    with pytest.raises(PolicyError):
        Trial(metrics, alpha)


def told(trial: Trial) -> tuple[int, int, int]:
    (found,) = trial.evidence
    return found.worse, found.better, found.same


def test_a_pair_is_one_answer_of_each_side_and_the_newer_one_waits() -> None:
    trial = Trial(("errors",), 0.05)
    trial.observe("candidate", "a", {"errors": 1.0})
    trial.observe("candidate", "b", {"errors": 0.0})
    trial.observe("champion", "c", {"errors": 0.0})  # with b, not with a
    assert told(trial) == (0, 0, 1)
    trial.observe("champion", "d", {"errors": 0.0})
    trial.observe("candidate", "e", {"errors": 1.0})
    assert told(trial) == (1, 0, 1)
    assert trial.stage_pairs == 2


def test_of_a_session_only_its_first_answer_counts() -> None:
    trial = Trial(("errors",), 0.05)
    for number in range(50):
        trial.observe("candidate", "one loud session", {"errors": 1.0})
        trial.observe("champion", f"other {number}", {"errors": 0.0})
    assert told(trial) == (1, 0, 0)
    for _ in range(50):
        trial.observe_pair("one loud session", candidate={"errors": 1.0}, champion={"errors": 0.0})
    assert told(trial) == (1, 0, 0)


def test_what_is_known_outlives_a_stage() -> None:
    trial = Trial(("errors", "left"), 0.05)
    for number in range(8):
        assert trial.harm is None
        trial.begin_stage()
        assert trial.stage_pairs == 0
        trial.observe_pair(str(number), candidate={"errors": 1.0}, champion={"errors": 0.0})
    harm = trial.harm
    assert harm is not None
    assert (harm.metric, harm.pairs, harm.limit) == ("errors", 8, 40.0)
    assert "requests that failed: 1 on average, the champion's 0" in str(harm)


def flood(trial: Trial, owner: str, *, pairs: int, worse: bool) -> None:
    for number in range(pairs):
        bad, good = {"errors": float(worse)}, {"errors": 0.0}
        trial.observe_pair(f"{owner}/{number}", candidate=bad, champion=good, owner=owner)


def test_one_key_among_several_does_not_stop_a_candidate() -> None:
    trial = Trial(("errors",), 0.05)
    trial.met("honest")
    flood(trial, "evil", pairs=1000, worse=True)
    assert trial.harm is None
    # Nor does it go on: people decide.
    assert trial.suspect
    flood(trial, "honest", pairs=20, worse=False)
    assert trial.harm is None
    flood(trial, "another", pairs=100, worse=True)
    assert trial.harm is not None


def test_where_there_is_one_key_alone_its_word_counts() -> None:
    trial = Trial(("errors",), 0.05)
    flood(trial, "only", pairs=20, worse=True)
    assert trial.harm is not None
    trial = Trial(("errors",), 0.05)
    flood(trial, "only", pairs=20, worse=False)
    assert trial.stage_full(20)


def test_one_key_among_several_fills_half_a_stage() -> None:
    trial = Trial(("errors",), 0.05)
    trial.met("honest")
    flood(trial, "evil", pairs=1000, worse=False)
    assert not trial.stage_full(20)
    flood(trial, "honest", pairs=9, worse=False)
    assert not trial.stage_full(20)
    flood(trial, "another", pairs=1, worse=False)
    assert trial.stage_full(20)
    trial.begin_stage()
    assert not trial.stage_full(1)


def test_a_pair_of_two_keys_is_left_out_with_either() -> None:
    trial = Trial(("errors",), 0.05)
    for number in range(100):
        trial.observe("candidate", f"evil/{number}", {"errors": 1.0}, "evil")
        trial.observe("champion", f"honest/{number}", {"errors": 0.0}, "honest")
    assert trial.suspect
    assert trial.harm is None


def test_a_better_candidate_is_never_stopped() -> None:
    trial = Trial(("errors",), 0.05)
    for number in range(1000):
        trial.observe_pair(str(number), candidate={"errors": 0.0}, champion={"errors": 1.0})
    assert trial.harm is None


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=40))
def test_swapping_the_sides_swaps_worse_and_better(answers: list[tuple[bool, int]]) -> None:
    """What makes the coin fair: nothing but the sign knows which side is which."""
    there, back = Trial(("longer",), 0.05), Trial(("longer",), 0.05)
    for number, (candidate, value) in enumerate(answers):
        values = {"longer": float(value)}
        there.observe("candidate" if candidate else "champion", str(number), values)
        back.observe("champion" if candidate else "candidate", str(number), values)
    worse, better, same = told(there)
    assert told(back) == (better, worse, same)


def test_buckets_spread_evenly() -> None:
    counts = Counter(bucket("salt", key) * 10 // BUCKETS for key in KEYS)
    assert all(abs(count - len(KEYS) / 10) < len(KEYS) / 100 for count in counts.values())
