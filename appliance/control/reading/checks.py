"""The checks of a review: each gate on each suite, with its numbers and its reason in words."""

import math
from collections.abc import Iterator
from typing import Literal

import msgspec

from appliance.control.identity import Person
from appliance.control.reading import candidate
from appliance.control.reading.samples import index_of
from appliance.control.rounds import Round, Rounds
from appliance.control.steps import Ground, gates_of
from appliance.core.records import Scorecard, SuiteResult
from policies.access import Act
from policies.gates import Gate, Gates, Metric
from policies.judging import GateResult, judge, rate

_MAX_FAMILIES = 50


class Family(msgspec.Struct, frozen=True):
    """A family of a suite's items."""

    family: str
    num_items: int
    champion_passed: int
    candidate_passed: int


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One gate on one suite. Numbers are None where the scorecard has no such suite."""

    gate: str
    suite: str
    kind: str
    required: bool
    outcome: Literal["met", "unmet", "harm"]
    why: str
    """In words, without the numbers that stand beside it."""
    unit: Literal["pass", "nats_per_token"]
    metric: str
    op: str
    bound: float
    demand: str
    value: float | None
    delta: float | None
    lower: float | None
    upper: float | None
    p: float | None
    num_items: int | None
    void: int | None
    gained: int | None
    lost: int | None
    champion: float | None
    """Share passed; of a likelihood the mean logprob per token."""
    candidate: float | None
    smallest_effect: float | None
    families: tuple[Family, ...] = ()
    overlap: int = 0
    """Items that were left out: the dataset holds them."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A suite that no gate reads: living ones, as a rule. It decides nothing, and people look."""

    suite: str
    kind: str
    num_items: int
    champion_passed: int
    candidate_passed: int
    gained: int
    lost: int


class Checks(msgspec.Struct, frozen=True, kw_only=True):
    """What the gates say."""

    verdict: Literal["pass", "refused", "inconclusive"]
    summary: str
    """Why, in one sentence."""
    checks: tuple[Check, ...]
    measured: tuple[Measured, ...]
    quorum: int
    names_hidden: bool
    """Canaries are named by number: their names are words of the data, above the reader's label."""


def of(ground: Ground, person: Person, number: int) -> Checks:
    """The checks of a round's candidate, judged by the gates that were sealed with the round.

    Raises:
        NotFoundError: no such round, or it has no scorecard yet.
        IntegrityError: the scorecard or the gates are damaged on disk.
    """
    person.require(Act.VIEW)
    round_ = Rounds(ground.database).get(number)
    scorecard, gates = candidate.scorecard_of(ground, round_), gates_of(ground, round_)
    hidden = not candidate.sees(ground, person, round_)
    if hidden:
        scorecard = _with_numbered_canaries(scorecard)
    judged = judge(scorecard, gates)
    means = _means(ground, round_, scorecard)
    checks = tuple(_check(scorecard, gates, result, means) for result in judged.gates)
    return Checks(
        verdict=judged.verdict,
        summary=_summary(judged.verdict, checks),
        checks=checks,
        measured=tuple(_measured(scorecard, gates)),
        quorum=gates.quorum,
        names_hidden=hidden and any(suite.kind == "canary" for suite in scorecard.suites),
    )


def _measured(scorecard: Scorecard, gates: Gates) -> Iterator[Measured]:
    for suite in scorecard.suites:
        if not any(gate.covers(suite) for gate in gates.gate):
            values = {name: getattr(suite, name) for name in Measured.__struct_fields__}
            yield Measured(**values)


def _with_numbered_canaries(scorecard: Scorecard) -> Scorecard:
    """A canary is named by words that its dataset holds."""
    suites, number = [], 0
    for suite in scorecard.suites:
        if suite.kind == "canary":
            number += 1
            suite = msgspec.structs.replace(suite, suite=f"canary {number}", by_family={})
        suites.append(suite)
    return msgspec.structs.replace(scorecard, suites=tuple(suites))


def _means(ground: Ground, round_: Round, scorecard: Scorecard) -> dict[str, tuple[float, float]]:
    """Suite → each side's mean logprob per token: the scorecard has their difference alone."""
    scored = any(suite.metric == "nats_per_token" for suite in scorecard.suites)
    return index_of(ground, round_)[0].means if scored and scorecard.outputs else {}


def _check(
    scorecard: Scorecard,
    gates: Gates,
    result: GateResult,
    means: dict[str, tuple[float, float]],
) -> Check:
    gate = next(gate for gate in gates.gate if gate.name == result.gate)
    covered = (s for s in scorecard.suites if s.suite == result.suite and gate.covers(s))
    suite = next(covered, None)
    metric, op, bound = gate.condition
    rates = (None, None) if suite is None else _rates(suite, means)
    return Check(
        gate=gate.name,
        suite=result.suite,
        kind=suite.kind if suite else gate.kind or "",
        required=gate.required,
        outcome=result.outcome,
        why=_in_words(gate, suite, result),
        unit=suite.metric if suite else "pass",
        metric=metric,
        op=op,
        bound=bound,
        demand=gate.demand,
        value=_finite(_observed(metric, suite)) if suite else None,
        delta=suite.delta if suite else None,
        lower=suite.lower_95 if suite else None,
        upper=suite.upper_95 if suite else None,
        p=suite.mcnemar_p if suite else None,
        num_items=suite.num_items if suite else None,
        void=suite.void if suite else None,
        gained=suite.gained if suite else None,
        lost=suite.lost if suite else None,
        champion=_finite(rates[0]),
        candidate=_finite(rates[1]),
        smallest_effect=suite.smallest_effect if suite else None,
        families=_families(suite) if suite else (),
        overlap=scorecard.overlap.get(result.suite, 0),
    )


def _rates(
    suite: SuiteResult, means: dict[str, tuple[float, float]]
) -> tuple[float | None, float | None]:
    if suite.metric == "nats_per_token":
        return means.get(suite.suite, (None, None))
    return rate(suite.champion_passed, suite), rate(suite.candidate_passed, suite)


def _observed(metric: Metric, suite: SuiteResult) -> float:
    if metric == "champion_rate":
        return rate(suite.champion_passed, suite)
    if metric == "candidate_rate":
        return rate(suite.candidate_passed, suite)
    return float(getattr(suite, metric))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _families(suite: SuiteResult) -> tuple[Family, ...]:
    """Those that lost most come first."""
    found = [Family(name, *numbers) for name, numbers in suite.by_family.items()]
    found.sort(key=lambda one: (one.candidate_passed - one.champion_passed, one.family))
    return tuple(found[:_MAX_FAMILIES])


def _in_words(gate: Gate, suite: SuiteResult | None, result: GateResult) -> str:
    if suite is None:
        return "the scorecard has no such suite, and this gate needs it"
    if result.outcome == "harm":
        return "the candidate is worse, by more than chance and more than this gate allows"
    # The judge's reason is the numbers, which stand in their own columns, and then why.
    why = result.reason.rpartition("): ")[2]
    return f"{gate.demand} holds" if result.outcome == "met" else why


def _summary(verdict: str, checks: tuple[Check, ...]) -> str:
    required = [check for check in checks if check.required]
    if verdict == "pass":
        return f"All {len(required)} required checks are met; people decide."
    outcome = "harm" if verdict == "refused" else "unmet"
    first, *others = [check for check in required if check.outcome == outcome]
    more = f" ({len(others)} more of the kind)" if others else ""
    if verdict == "refused":
        return f"Refused: {first.gate!r} shows harm on {first.suite}: {_against(first)}{more}."
    return (
        f"Inconclusive: no harm is shown, but {first.gate!r} is not met on {first.suite}: "
        f"{first.why}{more}."
    )


def _against(check: Check) -> str:
    if check.unit == "nats_per_token":
        return f"known good answers became less likely by {-(check.delta or 0):.3f} nats per token"
    return (
        f"the candidate passes {check.candidate or 0:.1%} of {check.num_items} items, "
        f"the champion {check.champion or 0:.1%}"
    )
