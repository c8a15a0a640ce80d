"""The judge: a scorecard and a gate file in, one verdict out.

- `refused`: a required gate's suite shows harm.
- `inconclusive`: no harm is shown, but a required gate is not met: its suite is missing, has too
  few items or too many void ones, or its number does not hold. Too little power is not a pass.
- `pass`: every required gate is met on every suite that it covers.

Harm is shown on a suite when three things agree: the candidate's one-sided 95 % upper bound is
below zero, the exact McNemar test gives p < 0.05, and the loss itself is beyond what the gate
allows (its margin on a protected or target suite, nothing on a canary, where the margin only asks
for power). The canaries of one scorecard are many looks for one thing, so their p values are
corrected after Holm (Scandinavian Journal of Statistics 6, 1979).
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from appliance.core.records import Record, Scorecard, SuiteResult
from policies.gates import Gate, Gates, Metric, Op, require_law

_ALPHA = 0.05


class GateResult(Record, frozen=True, kw_only=True):
    """One gate on one suite."""

    gate: str
    suite: str
    """The suite's name; the kind that was asked for where the scorecard has none."""
    required: bool
    outcome: Literal["met", "unmet", "harm"]
    reason: str
    """Names the suite and the numbers."""


class Verdict(Record, frozen=True, kw_only=True):
    """What the gates say about a scorecard. A person still has to sign for a pass."""

    verdict: Literal["pass", "refused", "inconclusive"]
    reason: str
    gates: tuple[GateResult, ...]


def judge(scorecard: Scorecard, gates: Gates) -> Verdict:
    """Judge a scorecard by a gate file.

    Raises:
        PolicyError: the gates are no law (see `require_law`).
    """
    require_law(gates)
    corrected = _holm({s.suite: s.mcnemar_p for s in scorecard.suites if s.kind == "canary"})
    results: list[GateResult] = []
    for gate in gates.gate:
        covered = [suite for suite in scorecard.suites if gate.covers(suite)]
        results.extend(_judge_suite(gate, s, corrected.get(s.suite, s.mcnemar_p)) for s in covered)
        if not covered:
            missing = gate.suite or gate.kind or ""
            reason = f"{missing}: the scorecard has no such suite, and {gate.name!r} needs it"
            results.append(_result(gate, missing, "unmet", reason))
    return _sum_up(results)


def rate(passed: int, suite: SuiteResult) -> float:
    """Share of the judged items; NaN, which meets no demand, where there are none."""
    return passed / suite.num_items if suite.num_items else float("nan")


def _judge_suite(gate: Gate, suite: SuiteResult, p: float) -> GateResult:
    numbers = _numbers(suite, p)
    if _shows_harm(gate, suite, p):
        return _result(gate, suite.suite, "harm", f"{numbers}: worse")
    if suite.num_items < gate.min_items:
        reason = f"{numbers}: {suite.num_items} judged items, at least {gate.min_items} are needed"
        return _result(gate, suite.suite, "unmet", reason)
    if suite.void > gate.max_void_share * (suite.num_items + suite.void):
        return _result(gate, suite.suite, "unmet", f"{numbers}: {suite.void} items are void")
    if _has_too_little_to_lose(gate, suite):
        reason = f"{numbers}: the champion passes {suite.champion_passed} of {suite.num_items}, "
        return _result(gate, suite.suite, "unmet", reason + "too few to show what was lost")
    metric, op, threshold = gate.condition
    if not _holds(_observe(metric, suite), op, threshold):
        reason = (
            f"{numbers}: {gate.demand} does not hold; "
            f"the smallest loss it could have seen is {suite.smallest_effect:.3f}{_unit(suite)}"
        )
        return _result(gate, suite.suite, "unmet", reason)
    return _result(gate, suite.suite, "met", f"{numbers}: {gate.demand}")


def _numbers(suite: SuiteResult, p: float) -> str:
    """A suite's numbers as a person reads them; a likelihood is nothing that passes or fails."""
    seen = (
        f"p {p:.2g}, delta {suite.delta:+.3f}{_unit(suite)}, "
        f"95 % bounds {suite.lower_95:+.3f} and {suite.upper_95:+.3f}"
    )
    if suite.metric == "nats_per_token":
        return (
            f"{suite.suite}: {suite.gained} of {suite.num_items} answers likelier than before "
            f"({suite.lost} less likely, {seen})"
        )
    return (
        f"{suite.suite}: candidate {suite.candidate_passed} of {suite.num_items} against "
        f"{suite.champion_passed} (gained {suite.gained}, lost {suite.lost}, {seen})"
    )


def _unit(suite: SuiteResult) -> str:
    return " nats per token" if suite.metric == "nats_per_token" else ""


def _shows_harm(gate: Gate, suite: SuiteResult, p: float) -> bool:
    allowed = 0.0 if suite.kind == "canary" else gate.margin or 0.0
    return suite.upper_95 < 0 and p < _ALPHA and suite.delta < -allowed


def _has_too_little_to_lose(gate: Gate, suite: SuiteResult) -> bool:
    """Whether a loss of the whole margin could not be seen, because the champion fails too.

    Of a target suite nothing of the kind is asked: it is there to be gained.
    """
    if suite.kind == "target" or suite.metric != "pass" or gate.margin is None:
        return False
    return suite.champion_passed < gate.margin * suite.num_items


def _observe(metric: Metric, suite: SuiteResult) -> float:
    match metric:
        case "champion_rate":
            return rate(suite.champion_passed, suite)
        case "candidate_rate":
            return rate(suite.candidate_passed, suite)
        case _:
            return float(getattr(suite, metric))


def _holds(observed: float, op: Op, threshold: float) -> bool:
    # Every comparison with NaN is false: a number that is missing meets no demand.
    match op:
        case ">":
            return observed > threshold
        case ">=":
            return observed >= threshold
        case "<":
            return observed < threshold
        case "<=":
            return observed <= threshold


def _holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjusted p values."""
    adjusted, floor = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda n: p_values[n])):
        floor = max(floor, min(1.0, p_values[name] * (len(p_values) - rank)))
        adjusted[name] = floor
    return adjusted


def _result(
    gate: Gate, suite: str, outcome: Literal["met", "unmet", "harm"], reason: str
) -> GateResult:
    return GateResult(
        gate=gate.name, suite=suite, required=gate.required, outcome=outcome, reason=reason
    )


def _sum_up(results: Sequence[GateResult]) -> Verdict:
    deciding = [result for result in results if result.required]
    harm = [result.reason for result in deciding if result.outcome == "harm"]
    unmet = [result.reason for result in deciding if result.outcome == "unmet"]
    if harm:
        return Verdict(verdict="refused", reason="; ".join(harm), gates=tuple(results))
    if unmet:
        return Verdict(verdict="inconclusive", reason="; ".join(unmet), gates=tuple(results))
    met = "; ".join(result.reason for result in deciding)
    return Verdict(verdict="pass", reason=met, gates=tuple(results))
