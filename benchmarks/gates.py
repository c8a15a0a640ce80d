"""How often the built-in gates are wrong: simulated rounds with a known true effect.

    python -m benchmarks.gates [--trials 200] [--seed 0] [--json]

Each trial draws gains and losses of one suite from a multinomial, makes the suite's result as
evaluation does, and asks the judge with one gate. A false accept is a pass on a protected suite
whose true loss is the margin or more, on a target that does not truly improve, or on canaries of
which one loses more than its margin of 0.25. A false refuse is `refused` where nothing is worse.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from appliance.core.digests import digest_bytes
from appliance.core.records import Scorecard, SuiteResult
from appliance.evaluation.statistics import mcnemar, paired_bounds
from policies.gates import Gates, parse_gates
from policies.judging import judge

_SIZES = (100, 200, 400, 1000)
_CHURN = 0.03
_NUM_SPANS = 6
_VERDICTS = ("pass", "inconclusive", "refused")


def main() -> None:
    """Simulate every scenario; print a table, and with ``--json`` one last line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    order = parser.parse_args()
    draws = np.random.default_rng(order.seed)
    print(f"{'suite':<24}{'items':>6}{'true change':>13}" + "".join(f"{v:>14}" for v in _VERDICTS))
    rows = []
    for row in _scenarios(order.trials, draws):
        rows.append(row)
        shares = "".join(f"{row[verdict]:>14.3f}" for verdict in _VERDICTS)
        print(f"{row['suite']:<24}{row['items']:>6}{row['true_change']:>+13.3f}{shares}")
    worst = {
        "false_accept": max(row["pass"] for row in rows if row["must_not_pass"]),
        "false_refuse": max(row["refused"] for row in rows if row["true_change"] >= 0),
    }
    print(f"worst false accept {worst['false_accept']:.3f}, refuse {worst['false_refuse']:.3f}")
    if order.json:
        print(json.dumps({"trials": order.trials, "churn": _CHURN, **worst, "rows": rows}))


def _scenarios(trials: int, draws: np.random.Generator) -> Iterator[dict[str, Any]]:
    for margin in (0.02, 0.10):
        gates = _law("protected", f"margin = {margin}")
        for num in _SIZES:
            for loss in (0.0, margin / 2, margin, 2 * margin, 4 * margin):
                counts = _simulate("protected", gates, num, 0.0 - loss, _CHURN, trials, draws)
                yield _row(
                    f"protected, margin {margin}", num, 0.0 - loss, counts, bad=loss >= margin
                )
    gates = _law("target", 'metric = "lower_95"\nop = ">"\nthreshold = 0.0')
    for num in _SIZES:
        for change in (-0.05, 0.0, 0.02, 0.05, 0.10):
            counts = _simulate("target", gates, num, change, _CHURN, trials, draws)
            yield _row("target", num, change, counts, bad=change <= 0)
    gates = _law("canary", "margin = 0.25")
    for hit in (0.0, 0.2, 0.4, 0.8):
        counts = _simulate("canary", gates, 40, 0.0 - hit, 0.01, trials, draws)
        yield _row(f"canary, 1 of {_NUM_SPANS} hit", 40, 0.0 - hit, counts, bad=hit > 0.25)


def _row(suite: str, num: int, change: float, counts: Counter[str], *, bad: bool) -> dict[str, Any]:
    total = counts.total()
    shares = {verdict: counts[verdict] / total for verdict in _VERDICTS}
    return {"suite": suite, "items": num, "true_change": change, "must_not_pass": bad, **shares}


def _simulate(
    kind: str,
    gates: Gates,
    num: int,
    change: float,
    churn: float,
    trials: int,
    draws: np.random.Generator,
) -> Counter[str]:
    verdicts: Counter[str] = Counter()
    for _ in range(trials):
        changes = [change] + [0.0] * (_NUM_SPANS - 1) if kind == "canary" else [change]
        suites = [_result(f"{kind} {i}", kind, num, c, churn, draws) for i, c in enumerate(changes)]
        card = Scorecard(
            candidate=digest_bytes(b"candidate"),
            champion=None,
            base=digest_bytes(b"base"),
            suites=tuple(suites),
            seed=0,
            outputs=None,
        )
        verdicts[judge(card, gates).verdict] += 1
    return verdicts


def _result(
    name: str, kind: str, num: int, change: float, churn: float, draws: np.random.Generator
) -> SuiteResult:
    gain, loss = churn + max(change, 0.0), churn + max(-change, 0.0)
    if gain + loss > 1.0:
        gain = 1.0 - loss
    gained, lost, same = (int(n) for n in draws.multinomial(num, [gain, loss, 1 - gain - loss]))
    differences = [1.0] * gained + [-1.0] * lost + [0.0] * same
    seed = int(draws.integers(2**31))
    lower, upper = paired_bounds(differences, worst=-1.0, best=1.0, seed=seed)
    return SuiteResult(
        suite=name,
        suite_digest=digest_bytes(name.encode()),
        kind=kind,  # type: ignore[arg-type]
        num_items=num,
        champion_passed=num - gained,
        candidate_passed=num - lost,
        gained=gained,
        lost=lost,
        void=0,
        mcnemar_p=mcnemar(gained, lost),
        delta=(gained - lost) / num,
        lower_95=lower,
        upper_95=upper,
        smallest_effect=0.0,
    )


def _law(kind: str, condition: str) -> Gates:
    return parse_gates(
        f'schema = "gates/1"\nname = "bench"\n[[gate]]\nname = "g"\nkind = "{kind}"\n{condition}\n'
    )


if __name__ == "__main__":
    main()
