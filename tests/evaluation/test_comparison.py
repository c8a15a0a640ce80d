"""Pairs in, a suite's result out."""

import pytest

from appliance.core.errors import RecordError
from appliance.core.records import Item, SuiteResult, decode, encode
from appliance.evaluation.answers import Answer
from appliance.evaluation.comparison import compare
from appliance.evaluation.suites import make_suite


def items(num: int, kind: str = "exact") -> list[Item]:
    check = {"kind": kind} if kind == "likelihood" else {"kind": kind, "expected": "x"}
    return [
        Item(item_id=str(i), family="even" if i % 2 == 0 else "odd", messages=(), check=check)
        for i in range(num)
    ]


def answers(outcomes: str) -> list[Answer]:
    """One letter each: o is ok, f failed, v void."""
    names = {"o": "ok", "f": "failed", "v": "void"}
    return [
        Answer(item_id=str(i), text="", outcome=names[letter])  # type: ignore[arg-type]
        for i, letter in enumerate(outcomes)
    ]


def scored(*logprobs: float | None) -> list[Answer]:
    return [
        Answer(item_id=str(i), text="", outcome="void" if p is None else "ok", logprob=p)
        for i, p in enumerate(logprobs)
    ]


def test_items_are_paired_and_void_ones_are_left_out_of_both_sides() -> None:
    suite = make_suite("t", "target", items(8))
    result = compare(suite, answers("offofvoo"), answers("ooffoofo"), seed=0)
    assert (result.num_items, result.void) == (7, 1)
    assert (result.champion_passed, result.candidate_passed) == (4, 4)
    assert (result.gained, result.lost) == (2, 2)
    assert result.delta == 0.0
    assert result.mcnemar_p == 1.0
    assert result.by_family == {"even": (4, 2, 2), "odd": (3, 2, 2)}
    assert result.lower_95 < 0 < result.upper_95
    assert result.metric == "pass"


def test_void_on_the_champions_side_is_no_gain() -> None:
    result = compare(make_suite("t", "target", items(2)), answers("vo"), answers("oo"), seed=0)
    assert (result.num_items, result.gained, result.void) == (1, 0, 1)


def test_everything_void_proves_nothing() -> None:
    result = compare(make_suite("t", "target", items(2)), answers("vv"), answers("oo"), seed=0)
    assert (result.num_items, result.lower_95, result.upper_95) == (0, -1.0, 1.0)
    assert result.smallest_effect == 1.0


def test_likelihoods_are_compared_in_nats_per_token() -> None:
    suite = make_suite("t", "target", items(5, "likelihood"))
    result = compare(
        suite, scored(-2.0, -2.0, -1.0, None, -1.0), scored(-1.0, -1.5, -1.2, -1.0, -0.5), seed=0
    )
    assert result.metric == "nats_per_token"
    assert (result.num_items, result.void) == (4, 1)
    assert (result.candidate_passed, result.champion_passed) == (3, 1)
    assert result.delta == pytest.approx((1.0 + 0.5 - 0.2 + 0.5) / 4)
    assert -0.2 <= result.lower_95 < result.delta < result.upper_95 <= 1.0


def test_a_held_out_suite_gets_no_result() -> None:
    with pytest.raises(RecordError, match="held out"):
        compare(make_suite("t", "held_out", items(1)), answers("o"), answers("o"), seed=0)


def test_answers_to_other_items_are_refused() -> None:
    with pytest.raises(RecordError, match="do not belong"):
        compare(make_suite("t", "target", items(2)), answers("oo"), answers("o"), seed=0)


def test_a_scorecard_of_one_likelihood_can_be_written_and_read() -> None:
    result = compare(
        make_suite("t", "target", items(1, "likelihood")), scored(-2.0), scored(-1.0), seed=0
    )
    assert decode(encode(result), SuiteResult) == result
