"""The statistics, against enumeration and simulation."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.evaluation.statistics import (
    mcnemar,
    paired_bounds,
    smallest_loss,
    smallest_shift,
)


def bounds(gained: int, lost: int, num: int, seed: int = 0) -> tuple[float, float]:
    differences = [1.0] * gained + [-1.0] * lost + [0.0] * (num - gained - lost)
    return paired_bounds(differences, worst=-1.0, best=1.0, seed=seed)


@pytest.mark.parametrize(("gained", "lost"), [(g, n - g) for n in range(9) for g in range(n + 1)])
def test_mcnemar_is_the_count_of_outcomes_as_extreme(gained: int, lost: int) -> None:
    n = gained + lost
    at_least = max(gained, lost)
    extreme = sum(
        1 for tosses in product((0, 1), repeat=n) if max(sum(tosses), n - sum(tosses)) >= at_least
    )
    # Counting both tails together counts an even split twice; the p value is capped there.
    assert mcnemar(gained, lost) == pytest.approx(float(min(Fraction(1), Fraction(extreme, 2**n))))


def test_mcnemar_at_a_size_where_floats_underflow() -> None:
    assert mcnemar(0, 1100) == 0.0
    assert mcnemar(900, 1100) == pytest.approx(8.8e-6, rel=0.05)


@pytest.mark.parametrize("num", [5, 40, 200, 1000])
def test_nothing_lost_is_not_proof_that_nothing_can_be(num: int) -> None:
    """With no discordant pair the bounds are Clopper and Pearson's, about 3/n."""
    exact = 1 - 0.05 ** (1 / num)
    lower, upper = bounds(0, 0, num)
    assert lower == pytest.approx(-exact, rel=0.05)
    assert upper == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize(("lost", "exact"), [(1, 0.0466), (3, 0.0757), (10, 0.1636)])
def test_losses_alone_have_clopper_and_pearsons_bound(lost: int, exact: float) -> None:
    assert bounds(0, lost, 100)[0] == pytest.approx(-exact, rel=0.03)


@given(st.integers(0, 30), st.integers(0, 30))
def test_a_bound_beyond_zero_is_a_significant_mcnemar_test(gained: int, lost: int) -> None:
    one_sided = sum(math.comb(gained + lost, k) for k in range(lost + 1)) / 2 ** (gained + lost)
    lower, _ = bounds(gained, lost, 100)
    if abs(one_sided - 0.05) > 0.01:  # nearer than that, 10,000 resamples cannot tell
        assert (lower > 0) == (one_sided < 0.05 and gained > lost)


def test_the_bounds_cover_what_they_claim() -> None:
    """Over simulated rounds, the true difference is below the lower bound in at most about 5 %."""
    draws = np.random.default_rng(3)
    for num, gain, loss in [(100, 0.0, 0.02), (200, 0.1, 0.1), (1000, 0.01, 0.005)]:
        misses = 0
        for seed in range(200):
            gained, lost, _ = draws.multinomial(num, [gain, loss, 1 - gain - loss])
            misses += bounds(int(gained), int(lost), num, seed)[0] > gain - loss
        assert misses <= 0.05 * 200 + 8, (num, gain, loss)  # 2.6 standard deviations


def test_many_pairs_agree_with_the_normal_approximation() -> None:
    draws = np.random.default_rng(0)
    differences = draws.normal(0.1, 0.5, 2000).tolist()
    lower, upper = paired_bounds(differences, worst=min(differences), best=max(differences), seed=0)
    half = 1.645 * np.std(differences) / math.sqrt(2000)
    assert lower == pytest.approx(np.mean(differences) - half, abs=0.003)
    assert upper == pytest.approx(np.mean(differences) + half, abs=0.003)


def test_the_same_seed_gives_the_same_bounds() -> None:
    assert bounds(7, 3, 50) == bounds(7, 3, 50)
    assert bounds(7, 3, 50) != bounds(7, 3, 50, seed=1)


def test_no_pairs_prove_nothing() -> None:
    assert paired_bounds([], worst=-1.0, best=1.0, seed=0) == (-1.0, 1.0)
    assert smallest_loss(0, 0.0) == 1.0
    assert smallest_shift([0.3]) == math.inf


@pytest.mark.parametrize(
    ("num", "churn"), [(40, 0.0), (200, 0.0), (200, 0.05), (1000, 0.01), (300, 0.2)]
)
def test_the_smallest_loss_is_found_in_four_of_five_simulated_runs(num: int, churn: float) -> None:
    loss = smallest_loss(num, churn)
    draws = np.random.default_rng(1)
    rows = draws.multinomial(num, [churn, churn + loss, 1 - 2 * churn - loss], size=4000)
    found = 0
    for gained, lost, _ in rows.tolist():
        tail = sum(math.comb(gained + lost, k) for k in range(gained + 1)) / 2 ** (gained + lost)
        found += tail <= 0.05 and lost > gained
    assert found / 4000 == pytest.approx(0.80, abs=0.025)


def test_too_few_items_see_nothing() -> None:
    assert smallest_loss(3, 0.0) == 1.0


def test_the_smallest_shift_is_found_in_four_of_five_simulated_runs() -> None:
    draws = np.random.default_rng(2)
    shift = smallest_shift(draws.normal(0, 1, 200).tolist())
    samples = draws.normal(-shift, 1, (4000, 200))
    found = (samples.mean(1) + 1.645 * samples.std(1) / math.sqrt(200)) < 0
    assert found.mean() == pytest.approx(0.80, abs=0.05)
