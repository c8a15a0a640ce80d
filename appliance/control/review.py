"""What a person must see before signing: a round, its scorecard, gates, data and decisions."""

import json
from collections import Counter
from statistics import fmean
from typing import Any

import msgspec

from appliance.control.budget import waits
from appliance.control.rounds import Round
from appliance.control.steps import Ground, approvals_of, gates_of
from appliance.core.records import Dataset, Scorecard, decode
from policies.lifecycle import State


def summary(ground: Ground, round_: Round) -> dict[str, Any]:
    """One line of a round."""
    return {
        "round": round_.round,
        "state": round_.state,
        "verdict": round_.verdict,
        "reason": round_.reason,
        "waits": waits(ground.settings.gpu) if round_.state is State.TRAINING else "",
        "authors": round_.authors,
        "adapter": round_.adapter,
        "champion": round_.champion,
        "created_at": round_.created_at,
        "changed_at": round_.changed_at,
        "progress": None if round_.state.terminal else _json_file(ground, round_, "progress.json"),
    }


def review(ground: Ground, round_: Round) -> dict[str, Any]:
    """Everything about a round."""
    scorecard = decode(ground.store.get(round_.scorecard), Scorecard) if round_.scorecard else None
    return {
        **summary(ground, round_),
        "order": msgspec.to_builtins(round_.order),
        "candidate": msgspec.to_builtins(round_.candidate),
        "data": _data(ground, round_),
        "scorecard": msgspec.to_builtins(scorecard),
        "likelihoods": _likelihoods(ground, scorecard) if scorecard else {},
        "gates": _json_file(ground, round_, "verdict.json"),
        "quorum": gates_of(ground, round_).quorum,
        "signed": _num_signed(ground, round_),
        "decisions": [msgspec.to_builtins(a) for a in approvals_of(ground.database, round_.round)],
    }


def _num_signed(ground: Ground, round_: Round) -> int:
    """How many people's last word about this very candidate is an approval."""
    last = {
        one.approver: one.decision
        for one in approvals_of(ground.database, round_.round)
        if one.candidate == round_.candidate
    }
    return sum(decision == "approve" for decision in last.values())


def _data(ground: Ground, round_: Round) -> dict[str, Any] | None:
    if round_.dataset is None:
        return None
    dataset = decode(ground.store.get(round_.dataset), Dataset)
    return {
        "dataset": round_.dataset,
        "label": dataset.label,
        "trajectories": len(dataset.trajectories),
        "examples": len(dataset.examples),
        "counts": dataset.counts,
        "excluded": len(dataset.exclusions),
        "reasons": dict(Counter(one.reason for one in dataset.exclusions).most_common()),
    }


def _likelihoods(ground: Ground, scorecard: Scorecard) -> dict[str, dict[str, float]]:
    """Suite → each side's mean logprob per answer token, in nats, over the judged pairs.

    The scorecard has the difference alone; how likely is read from the answers that it names.
    """
    scored = {s.suite for s in scorecard.suites if s.metric == "nats_per_token"}
    if not scored or scorecard.outputs is None:
        return {}
    sides: dict[tuple[str, str], dict[str, float]] = {}
    current: dict[str, float] = {}
    for line in ground.store.get(scorecard.outputs).splitlines():
        entry = json.loads(line)
        if "side" in entry:
            current = sides.setdefault((entry["suite"], entry["side"]), {})
        elif entry["outcome"] != "void" and entry["logprob"] is not None:
            current[entry["item_id"]] = entry["logprob"]
    means = {}
    for suite in scored:
        champion, candidate = sides[suite, "champion"], sides[suite, "candidate"]
        if both := champion.keys() & candidate.keys():
            means[suite] = {
                "champion": fmean(champion[item] for item in both),
                "candidate": fmean(candidate[item] for item in both),
            }
    return means


def _json_file(ground: Ground, round_: Round, name: str) -> Any:
    try:
        return json.loads((ground.home.rounds / str(round_.round) / name).read_bytes())
    except (FileNotFoundError, ValueError):
        return None  # not there yet, or a kill cut it off
