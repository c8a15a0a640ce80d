"""The numbers of a paired comparison: exact McNemar, bootstrap bounds, the smallest effect seen.

Pure functions of the pairs and a seed. A pair's difference is candidate minus champion: -1, 0 or 1
for items that pass or fail, nats per token for likelihood.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NUM_RESAMPLES = 10_000
_TAIL = 0.05
_POWER = 0.80
_Z_TAIL, _Z_POWER = 1.6448536269514722, 0.8416212335729143
_CHUNK_FLOATS = 2_000_000


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p value of the exact McNemar test: gains and losses as tosses of a fair coin."""
    return min(1.0, 2.0 * _lower_tail(min(gained, lost), gained + lost))


def paired_bounds(
    differences: Sequence[float], *, worst: float, best: float, seed: int
) -> tuple[float, float]:
    """One-sided 95 % lower and upper bounds of the mean difference.

    A Bayesian paired bootstrap (Rubin, Annals of Statistics 9, 1981): the pairs are weighted anew,
    10,000 times, by a uniform draw from the simplex. The plain bootstrap says that nothing can be
    lost where nothing was seen to be lost, even after five items. So each bound has one more pair,
    which was not seen: for the lower bound a `worst` difference, for the upper one a `best`. With
    differences of -1, 0 and 1 this makes them agree with what is exact: without gains the lower
    bound is Clopper and Pearson's for the share of losses (-3/n where none was seen), and it is
    above zero just when the one-sided McNemar test gives p < 0.05.

    Without any pairs the bounds are `worst` and `best`.
    """
    if not differences:
        return worst, best
    draws = np.random.default_rng(seed)
    lower = np.quantile(_resampled_means([*differences, worst], draws), _TAIL)
    upper = np.quantile(_resampled_means([*differences, best], draws), 1 - _TAIL)
    return float(lower), float(upper)


def smallest_loss(num_items: int, churn: float) -> float:
    """The smallest true loss that a one-sided exact McNemar test at 5 % finds in 80 % of runs.

    `churn` is the share of items that would flip each way even if nothing were lost: the smaller
    of the observed shares of gains and losses. Exact over the multinomial of gains and losses, to
    1/1000 of a share; 1.0 where even losing everything would not be seen.
    """
    if num_items == 0 or _power(num_items, churn, 1.0 - 2 * churn) < _POWER:
        return 1.0
    low, high = 0.0, 1.0 - 2 * churn
    while high - low > 1e-3 / 2:
        middle = (low + high) / 2
        low, high = (low, middle) if _power(num_items, churn, middle) >= _POWER else (middle, high)
    return high


def smallest_shift(differences: Sequence[float]) -> float:
    """The same for real-valued differences, by the normal approximation; infinite below two."""
    if len(differences) < 2:
        return math.inf
    spread = float(np.std(differences, ddof=1))
    return (_Z_TAIL + _Z_POWER) * spread / math.sqrt(len(differences))


def _resampled_means(values: Sequence[float], draws: np.random.Generator) -> Floats:
    # Equal values share one weight: a sum of exponentials is a gamma variable.
    unique, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    means = np.empty(NUM_RESAMPLES)
    rows = max(1, _CHUNK_FLOATS // len(unique))
    for start in range(0, NUM_RESAMPLES, rows):
        stop = min(start + rows, NUM_RESAMPLES)
        weights = draws.standard_gamma(counts, size=(stop - start, len(unique)))
        means[start:stop] = weights @ unique / weights.sum(axis=1)
    return means


def _lower_tail(most: int, tosses: int) -> float:
    """P(at most `most` heads in `tosses` of a fair coin), exact to the last rounding."""
    return float(sum(math.comb(tosses, k) for k in range(most + 1)) / 2**tosses)


def _power(num_items: int, churn: float, loss: float) -> float:
    """P(the test rejects) when each item is gained with p = churn, lost with p = churn + loss."""
    total = 0.0
    share = min(1.0, (churn + loss) / (1.0 - churn))
    for gained, weight in enumerate(np.exp(_log_binomial(num_items, churn))):
        critical = _critical_losses(gained)
        if weight < 1e-9 and gained > num_items * churn:
            break  # what is left weighs nothing
        if weight > 1e-9:
            losses = np.exp(_log_binomial(num_items - gained, share))
            total += float(weight * losses[critical:].sum())
    return total


@cache
def _critical_losses(gained: int) -> int:
    """The fewest losses that, against `gained` gains, give a one-sided p of at most 5 %."""
    lost = _critical_losses(gained - 1) if gained else 1
    while _lower_tail(gained, gained + lost) > _TAIL:
        lost += 1
    return lost


def _log_binomial(n: int, p: float) -> Floats:
    """log P(k of n) for k = 0 … n; impossible counts are -inf."""
    k = np.arange(n + 1)
    if p <= 0.0 or p >= 1.0:
        return np.where(k == (0 if p <= 0.0 else n), 0.0, -np.inf)
    factorial = _log_factorials(1 << n.bit_length())[: n + 1]
    result: Floats = (
        factorial[n] - factorial - factorial[::-1] + k * math.log(p) + (n - k) * math.log1p(-p)
    )
    return result


@cache
def _log_factorials(n: int) -> Floats:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
