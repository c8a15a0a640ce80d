"""What a person must see before signing: a round, its scorecard, gates, data and decisions."""

import json
from typing import Any

import msgspec

from appliance.control.rounds import Round
from appliance.control.steps import Ground, approvals_of
from appliance.core.records import Dataset, Scorecard, decode


def summary(ground: Ground, round_: Round) -> dict[str, Any]:
    """One line of a round."""
    return {
        "round": round_.round,
        "state": round_.state,
        "verdict": round_.verdict,
        "reason": round_.reason,
        "authors": round_.authors,
        "adapter": round_.adapter,
        "champion": round_.champion,
        "created_at": round_.created_at,
        "changed_at": round_.changed_at,
        "progress": _json_file(ground, round_, "progress.json"),
    }


def review(ground: Ground, round_: Round) -> dict[str, Any]:
    """Everything about a round."""
    scorecard = (
        msgspec.to_builtins(decode(ground.store.get(round_.scorecard), Scorecard))
        if round_.scorecard
        else None
    )
    return {
        **summary(ground, round_),
        "order": msgspec.to_builtins(round_.order),
        "data": _data(ground, round_),
        "scorecard": scorecard,
        "gates": _json_file(ground, round_, "verdict.json"),
        "decisions": [msgspec.to_builtins(a) for a in approvals_of(ground.database, round_.round)],
    }


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
    }


def _json_file(ground: Ground, round_: Round, name: str) -> Any:
    try:
        return json.loads((ground.home.rounds / str(round_.round) / name).read_bytes())
    except FileNotFoundError:
        return None
