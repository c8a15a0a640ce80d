"""Two sides' answers to one suite in, one `SuiteResult` out. Pure.

An item that is void on either side is left out of both, and counted.
"""

from collections import Counter
from collections.abc import Sequence
from zlib import crc32

from appliance.core.errors import RecordError
from appliance.core.records import Item, SuiteResult
from appliance.evaluation.answers import Answer
from appliance.evaluation.statistics import mcnemar, paired_bounds, smallest_loss, smallest_shift
from appliance.evaluation.suites import Suite

_UNSEEN_NATS = 1e6


def compare(
    suite: Suite, champion: Sequence[Answer], candidate: Sequence[Answer], *, seed: int
) -> SuiteResult:
    """Pair the answers item by item.

    Raises:
        RecordError: the suite is held out, or the answers are not to its items.
    """
    if suite.kind == "held_out":
        raise RecordError(f"suite {suite.suite!r} is held out: no scorecard may show it")
    asked = [item.item_id for item in suite.items]
    if asked != [a.item_id for a in champion] or asked != [a.item_id for a in candidate]:
        raise RecordError(f"suite {suite.suite!r}: the answers do not belong to its items")
    pairs = [
        (item, before, after)
        for item, before, after in zip(suite.items, champion, candidate, strict=True)
        if "void" not in (before.outcome, after.outcome)
    ]
    # Each suite has resamples of its own, whatever other suites there are.
    own_seed = seed ^ crc32(suite.suite.encode())
    differences = [_difference(before, after) for _, before, after in pairs]
    gained = sum(difference > 0 for difference in differences)
    lost = sum(difference < 0 for difference in differences)
    num = len(pairs)
    if suite.by_likelihood:
        worst, best = min([0.0, *differences]), max([0.0, *differences])
        champion_won = [difference < 0 for difference in differences]
        candidate_won = [difference > 0 for difference in differences]
        # JSON has no infinity, and no token costs so many nats.
        smallest = min(smallest_shift(differences), _UNSEEN_NATS)
    else:
        worst, best = -1.0, 1.0
        champion_won = [before.outcome == "ok" for _, before, _ in pairs]
        candidate_won = [after.outcome == "ok" for _, _, after in pairs]
        smallest = smallest_loss(num, min(gained, lost) / num) if num else 1.0
    lower, upper = paired_bounds(differences, worst=worst, best=best, seed=own_seed)
    return SuiteResult(
        suite=suite.suite,
        suite_digest=suite.digest,
        kind=suite.kind,
        num_items=num,
        champion_passed=sum(champion_won),
        candidate_passed=sum(candidate_won),
        gained=gained,
        lost=lost,
        void=len(suite.items) - num,
        mcnemar_p=mcnemar(gained, lost),
        delta=sum(differences) / num if num else 0.0,
        lower_95=lower,
        upper_95=upper,
        smallest_effect=smallest,
        by_family=_by_family([item for item, _, _ in pairs], champion_won, candidate_won),
        metric="nats_per_token" if suite.by_likelihood else "pass",
    )


def _difference(champion: Answer, candidate: Answer) -> float:
    if champion.logprob is not None and candidate.logprob is not None:
        return candidate.logprob - champion.logprob
    return float(candidate.outcome == "ok") - float(champion.outcome == "ok")


def _by_family(
    items: Sequence[Item], champion: Sequence[bool], candidate: Sequence[bool]
) -> dict[str, tuple[int, int, int]]:
    num = Counter(item.family for item in items)
    before = Counter(item.family for item, won in zip(items, champion, strict=True) if won)
    after = Counter(item.family for item, won in zip(items, candidate, strict=True) if won)
    return {family: (num[family], before[family], after[family]) for family in sorted(num)}
