"""How often a rollout is stopped without cause, and how soon with one: simulated rollouts.

    python -m benchmarks.canary [--rollouts 2000] [--seed 0] [--json]

Each goes through the default stages with the rule that serving uses (policies/canary.py). Sessions
arrive in either group by a fair coin; while they do, the load changes: times swing by a factor of
three over the rollout. In the last rows one thing is worse. A session has one answer, with the
champion's rates: 1 % fail, 2 % of the clients leave, 3 % refuse, 5 % of the half that may call a
tool do it badly, 20 % of the third that is judged failed; times and lengths are log-normal.

`candidate` counts the candidate's sessions in pairs or waiting until the stop (median), from the
shadow on; `served` only those whose answer a user saw; `all` is every session of the alias by then.
"""

import argparse
import json
import math
import random
from collections.abc import Iterator
from statistics import median
from typing import Any

import msgspec

from appliance.core.settings import Rollout
from policies.canary import Side, Trial

_SWING = 3.0


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """What a version does."""

    fails: float = 0.01
    leaves: float = 0.02
    refuses: float = 0.03
    calls_badly: float = 0.05
    disappoints: float = 0.20
    slower: float = 1.0
    longer: float = 1.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one rollout."""

    metric: str
    """Of the stop; empty where it was released."""
    share: int
    candidate: int
    served: int
    everybody: float


_CHAMPION = Truth()
_HARMS: dict[str, Truth] = {
    "no difference": _CHAMPION,
    "errors 1 → 5 %": Truth(fails=0.05),
    "errors 1 → 20 %": Truth(fails=0.20),
    "errors 1 → 100 %": Truth(fails=1.0),
    "times × 1.2": Truth(slower=1.2),
    "times × 1.5": Truth(slower=1.5),
    "times × 2": Truth(slower=2.0),
    "length × 2": Truth(longer=2.0),
    "length × 4": Truth(longer=4.0),
    "length ÷ 4": Truth(longer=0.25),
    "refusals 3 → 15 %": Truth(refuses=0.15),
    "refusals 3 → 40 %": Truth(refuses=0.40),
    "bad calls 5 → 40 %": Truth(calls_badly=0.40),
    "failed outcomes 20 → 60 %": Truth(disappoints=0.60),
    "clients that leave 2 → 15 %": Truth(leaves=0.15),
}


def main() -> None:
    """Simulate every truth; print a table, and with ``--json`` one last line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rollouts", type=int, default=2000, help="with no difference")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    order = parser.parse_args()
    settings = Rollout()
    stages = "/".join(map(str, (0, *settings.stages)))
    columns = ("candidate", "served", "all")
    print(f"{'the candidate':<30}{'stopped':>10}{'at ' + stages + ' %':>16}", end="")
    print("".join(f"{name:>11}" for name in columns))
    rows = []
    for name, truth in _HARMS.items():
        # Rare things need many rollouts to be counted, common ones few.
        num = order.rollouts if truth == _CHAMPION else max(1, order.rollouts // 10)
        draws = random.Random(f"{order.seed} {name}")
        row = _row(name, [_rollout(truth, settings, draws) for _ in range(num)])
        rows.append(row)
        delays = (row[key] if row["stopped"] else "" for key in columns)
        print(f"{name:<30}{row['stopped']:>10.4f}{row['stages']:>16}", end="")
        print("".join(f"{delay:>11}" for delay in delays))
    print(
        f"stopped without cause: {rows[0]['stopped']:.4f} of {rows[0]['rollouts']} rollouts "
        f"(95 % sure below {rows[0]['upper_95']:.4f}; alpha {settings.alpha:g})"
    )
    if order.json:
        rollout = msgspec.to_builtins(settings)
        print(json.dumps({"seed": order.seed, "rollout": rollout, "rows": rows}))


def _rollout(truth: Truth, settings: Rollout, draws: random.Random) -> Outcome:
    trial = Trial(settings.metrics, settings.alpha)
    key = candidate = served = 0
    everybody = 0.0
    for share in (0, *settings.stages):
        trial.begin_stage()
        needed = settings.stage_requests if share else settings.shadow_requests
        while trial.stage_pairs < needed:
            key += 1
            load = _SWING ** math.sin(key / 100)
            if share == 0:
                candidate += 1
                everybody += 1
                pair = (_answer(t, load, draws, shadow=True) for t in (truth, _CHAMPION))
                trial.observe_pair(str(key), candidate=next(pair), champion=next(pair))
            else:
                side: Side = "candidate" if draws.random() < 0.5 else "champion"
                candidate += side == "candidate"
                served += side == "candidate"
                everybody += 100 / (2 * share)
                for values in _session(truth if side == "candidate" else _CHAMPION, load, draws):
                    trial.observe(side, str(key), values)
            harm = trial.harm
            if harm is not None:
                return Outcome(
                    metric=harm.metric,
                    share=share,
                    candidate=candidate,
                    served=served,
                    everybody=everybody,
                )
    return Outcome(metric="", share=100, candidate=candidate, served=served, everybody=everybody)


def _session(truth: Truth, load: float, draws: random.Random) -> Iterator[dict[str, float]]:
    if draws.random() < truth.leaves:
        yield {"left": 1.0}
        return
    yield _answer(truth, load, draws, shadow=False)
    if draws.random() < 1 / 3:
        yield {"feedback": float(draws.random() < truth.disappoints)}


def _answer(truth: Truth, load: float, draws: random.Random, *, shadow: bool) -> dict[str, float]:
    """What serving measures; times are not compared in the shadow."""
    left = {} if shadow else {"left": 0.0}
    if draws.random() < truth.fails:
        return {**left, "errors": 1.0}
    tokens = float(round(draws.lognormvariate(4.5, 0.8) * truth.longer))
    values = {
        **left,
        "errors": 0.0,
        "longer": tokens,
        "shorter": tokens,
        "refusals": float(draws.random() < truth.refuses),
    }
    if draws.random() < 0.5:
        values["tool_calls"] = float(draws.random() < truth.calls_badly)
    if not shadow:
        first = draws.lognormvariate(-1.5, 0.4) * load * truth.slower
        values["first_token"] = first
        values["whole"] = first + tokens * 0.01 * load * truth.slower
    return values


def _row(name: str, outcomes: list[Outcome]) -> dict[str, Any]:
    stopped = [one for one in outcomes if one.metric]
    num = len(outcomes)
    return {
        "truth": name,
        "rollouts": num,
        "stopped": len(stopped) / num,
        "upper_95": _upper_95(len(stopped), num),
        "stages": "/".join(
            str(sum(one.share == share for one in stopped)) for share in (0, *Rollout().stages)
        ),
        "metrics": {
            metric: sum(one.metric == metric for one in stopped)
            for metric in sorted({one.metric for one in stopped})
        },
        "candidate": round(median(one.candidate for one in stopped)) if stopped else None,
        "served": round(median(one.served for one in stopped)) if stopped else None,
        "all": round(median(one.everybody for one in stopped)) if stopped else None,
    }


def _upper_95(count: int, num: int) -> float:
    """One-sided 95 % upper bound of a share, by Wilson's score."""
    z = 1.6449
    share = count / num
    middle = share + z * z / (2 * num)
    spread = z * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    return (middle + spread) / (1 + z * z / num)


if __name__ == "__main__":
    main()
