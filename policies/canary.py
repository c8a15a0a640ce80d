"""Whether a candidate does worse than the champion, while both answer. Looked at after every
answer, and still wrong in at most a share `alpha` of the rollouts.

A session's bucket decides which version answers it. Sessions of the candidate's buckets are
compared with those of as many control buckets, which the champion answers. Two comparable answers
that end one after the other, one from each group, are a pair. If the versions did not differ,
which of the two is the candidate's would be the toss of a fair coin, whatever the hour or the
load; so "the candidate's is worse" is a coin too, and many of one side are evidence.

The evidence is an e-value: the likelihood of the coins seen under a bent coin over that under a
fair one, averaged over a grid of bent coins. Under a fair coin it is a martingale that begins at 1,
and by Ville's inequality (Ville 1939) it ever reaches 1/a with probability at most a, so it may be
watched without end (Ramdas, Grünwald, Vovk and Shafer, "Game-theoretic statistics and safe
anytime-valid inference", 2023). Of m metrics each must reach m/alpha (Bonferroni).

Nobody decides alone. Where several owners (API keys) ask for the alias, harm has to stay harm
without the pairs of any one of them, and one owner fills at most half of a stage. Leaving one out
keeps the false alarms below alpha: each of these e-values is a martingale too, and the least of
them is asked.

What is not here: measuring answers, routing, and the journal (serving).
"""

import hmac
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import msgspec

from appliance.core.errors import PolicyError

Side = Literal["candidate", "champion"]

BUCKETS = 10_000
MAX_SHARE = 50
"""In percent: the control group is as large as the candidate's."""

_BENT = (*(step / 20 for step in range(11, 20)), 0.99)
"""Chances that the candidate's answer is the worse one: 0.55, 0.60 … 0.95, 0.99."""
_MAX_EXPONENT = 700.0
"""e to this is still a float."""


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is measured of an answer, and which end of it is the bad one."""

    name: str
    what: str
    bad: Literal["high", "low"] = "high"
    ratio: float = 1.0
    """Two values are the same until one is more than so many times the other."""

    def worse(self, candidate: float, champion: float) -> int:
        """1 where the candidate's value is worse, -1 where it is better, 0 where it is the same."""
        low, high = sorted((candidate, champion))
        if high <= low * self.ratio:
            return 0
        return 1 if (candidate > champion) == (self.bad == "high") else -1


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric(name="errors", what="requests that failed"),
            Metric(name="left", what="clients that left before the end"),
            Metric(name="first_token", what="seconds to the first token", ratio=1.2),
            Metric(name="whole", what="seconds to the last token", ratio=1.2),
            Metric(name="longer", what="tokens of an answer, too many", ratio=2.0),
            Metric(name="shorter", what="tokens of an answer, too few", bad="low", ratio=2.0),
            Metric(name="refusals", what="answers that are empty or refuse"),
            Metric(name="tool_calls", what="answers with a tool call that does not parse"),
            Metric(name="feedback", what="outcomes that are said to have failed"),
        )
    }
)


def bucket(salt: str, key: str) -> int:
    """The bucket of a session, 0 to 9,999: anybody who has the journal can tell it again."""
    mac = hmac.digest(salt.encode(), key.encode(), "sha256")
    return int.from_bytes(mac) % BUCKETS


def group(salt: str, key: str, share: int) -> Side | None:
    """Which group a session is in while the candidate has `share` percent; None is neither.

    Groups only grow with the share, so a session that the candidate answers stays with it.
    """
    found, size = bucket(salt, key), share * BUCKETS // 100
    if found < size:
        return "candidate"
    return "champion" if found >= BUCKETS - size else None


def e_value(worse: int, better: int) -> float:
    """The evidence of so many pairs where the candidate was worse, and better. 1 is none."""
    exponents = (worse * math.log(2 * bent) + better * math.log(2 * (1 - bent)) for bent in _BENT)
    return math.fsum(math.exp(min(e, _MAX_EXPONENT)) for e in exponents) / len(_BENT)


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one metric."""

    metric: str
    worse: int
    """Pairs in which the candidate's answer was the worse one."""
    better: int
    same: int
    candidate: float
    """Mean over the candidate's answers in pairs; 0 before the first."""
    champion: float
    e: float
    limit: float
    """From here on it is harm."""

    @property
    def pairs(self) -> int:
        """How many there are."""
        return self.worse + self.better + self.same

    @property
    def harm(self) -> bool:
        """Whether it is enough to stop."""
        return self.e >= self.limit

    def __str__(self) -> str:
        return (
            f"{METRICS[self.metric].what}: {self.candidate:.3g} on average, the champion's "
            f"{self.champion:.3g}; worse in {self.worse}, better in {self.better} of {self.pairs} "
            f"pairs (e-value {self.e:.3g}, limit {self.limit:g})"
        )


class Trial:
    """One rollout's comparison. It begins with nothing known, and goes on over all stages."""

    def __init__(self, metrics: Sequence[str], alpha: float) -> None:
        if not metrics or (unknown := set(metrics) - set(METRICS)):
            raise PolicyError(
                f"a rollout watches at least one of {', '.join(METRICS)}, "
                f"got {', '.join(sorted(unknown)) if metrics else 'none'}"
            )
        if not 0 < alpha < 1:
            raise PolicyError(f"alpha must be between 0 and 1, got {alpha:g}")
        self._limit = len(metrics) / alpha
        self._owners: set[str] = set()
        self._comparisons = {name: _Comparison(METRICS[name]) for name in metrics}

    def met(self, owner: str) -> None:
        """This owner asks for the alias too, whether or not anything of theirs is compared."""
        self._owners.add(owner)

    def observe(self, side: Side, key: str, values: Mapping[str, float], owner: str = "") -> None:
        """An answer has ended, or was judged; of each session and metric only the first counts."""
        self.met(owner)
        for comparison, value in self._measured(values):
            comparison.take(side, key, value, owner)

    def observe_pair(
        self,
        key: str,
        *,
        candidate: Mapping[str, float],
        champion: Mapping[str, float],
        owner: str = "",
    ) -> None:
        """Both have answered the same request."""
        self.met(owner)
        for comparison, value in self._measured(candidate):
            if comparison.metric.name in champion:
                comparison.take_pair(key, value, champion[comparison.metric.name], owner)

    def begin_stage(self) -> None:
        """The candidate has another share from here on."""
        for comparison in self._comparisons.values():
            comparison.begin_stage()

    def knows(self, key: str) -> bool:
        """Whether something of this session was taken already."""
        return any(comparison.knows(key) for comparison in self._comparisons.values())

    @property
    def stage_pairs(self) -> int:
        """Pairs since the stage began, by the metric that has most."""
        return max(comparison.stage_pairs for comparison in self._comparisons.values())

    def stage_full(self, needed: int, *, one_is_enough: bool = False) -> bool:
        """Whether the stage has so many pairs; of one owner among several at most half count."""
        most = needed if one_is_enough or len(self._owners) < 2 else needed // 2
        return any(c.stage_pairs_counted(most) >= needed for c in self._comparisons.values())

    @property
    def evidence(self) -> list[Evidence]:
        """What is known of every metric."""
        return [comparison.evidence(self._limit) for comparison in self._comparisons.values()]

    @property
    def suspect(self) -> bool:
        """Whether there is evidence of harm, be it one owner's alone."""
        return any(found.harm for found in self.evidence)

    @property
    def harm(self) -> Evidence | None:
        """The metric by which the candidate must be stopped, the worst first."""
        alone = len(self._owners) < 2
        return max(
            (
                found
                for comparison in self._comparisons.values()
                if (found := comparison.evidence(self._limit)).harm
                and (alone or comparison.least_e >= self._limit)
            ),
            key=lambda one: one.e,
            default=None,
        )

    def _measured(self, values: Mapping[str, float]) -> "list[tuple[_Comparison, float]]":
        return [(self._comparisons[n], v) for n, v in values.items() if n in self._comparisons]


class _Comparison:
    """One metric's pairs."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.stage_pairs = 0
        self._stage_owned: Counter[str] = Counter()
        self._counts = {1: 0, -1: 0, 0: 0}
        self._owned: defaultdict[str, Counter[int]] = defaultdict(Counter)
        """How each owner's pairs came out; a pair of two owners is of both."""
        self._sums = {"candidate": 0.0, "champion": 0.0}
        self._seen: set[str] = set()
        self._waits: tuple[Side, float, str] | None = None

    def begin_stage(self) -> None:
        self.stage_pairs = 0
        self._stage_owned.clear()

    def stage_pairs_counted(self, most: int) -> int:
        """The stage's pairs without what one owner has above `most`."""
        return self.stage_pairs - sum(max(0, n - most) for n in self._stage_owned.values())

    @property
    def least_e(self) -> float:
        """The evidence without the owner who contributes most to it."""
        return min(
            (
                e_value(self._counts[1] - owned[1], self._counts[-1] - owned[-1])
                for owned in self._owned.values()
            ),
            default=1.0,
        )

    def knows(self, key: str) -> bool:
        return key in self._seen

    def take(self, side: Side, key: str, value: float, owner: str) -> None:
        if key in self._seen:
            return
        self._seen.add(key)
        waits, self._waits = self._waits, (side, value, owner)
        # Two of one side: the newer waits. Where the pair stands then says nothing of its order.
        if waits is not None and waits[0] != side:
            self._waits = None
            pair = {waits[0]: waits[1], side: value}
            self._count(pair["candidate"], pair["champion"], {waits[2], owner})

    def take_pair(self, key: str, candidate: float, champion: float, owner: str) -> None:
        if key not in self._seen:
            self._seen.add(key)
            self._count(candidate, champion, {owner})

    def evidence(self, limit: float) -> Evidence:
        worse, better, same = (self._counts[sign] for sign in (1, -1, 0))
        num = max(1, worse + better + same)
        return Evidence(
            metric=self.metric.name,
            worse=worse,
            better=better,
            same=same,
            candidate=self._sums["candidate"] / num,
            champion=self._sums["champion"] / num,
            e=e_value(worse, better),
            limit=limit,
        )

    def _count(self, candidate: float, champion: float, owners: set[str]) -> None:
        sign = self.metric.worse(candidate, champion)
        self._counts[sign] += 1
        for owner in owners:
            self._owned[owner][sign] += 1
        self._stage_owned.update(owners if len(owners) == 1 else ())
        self._sums["candidate"] += candidate
        self._sums["champion"] += champion
        self.stage_pairs += 1
