"""tau-bench results: ``[{"task_id", "trial", "reward", "info", "traj": [messages]}]``."""

from typing import Any

from appliance.core.records import Outcome
from collectors.importing.draft import Draft, Raw, Skipped
from collectors.importing.messages import clean_messages, turns_of

FORMAT = "tau-bench"
_TOLERANCE = 1e-6
"""Rewards are sums and products of floats: tau-bench itself counts what is this near to 1 as 1."""


def claims(record: Raw) -> bool:
    """Whether the record is one trial."""
    return "task_id" in record and "traj" in record


def read(record: Raw) -> Draft:
    """One trial. A reward of 1 is a success, another number a failure, no number is unknown.

    Raises:
        RecordError: `traj` is not a conversation.
    """
    messages = clean_messages(record["traj"] or [])
    turns, skipped = turns_of(messages)
    if not turns:
        skipped.append(Skipped(where="", reason="no_answers", detail=_error(record.get("info"))))
    family = f"{FORMAT}/{_domain(messages)}"
    reward = record.get("reward")
    return Draft(
        format=FORMAT,
        turns=tuple(turns),
        outcome=_outcome(reward),
        task=f"{family}/{record['task_id']}",
        family=family,
        tags={"reward": str(reward), "trial": str(record.get("trial", ""))},
        skipped=tuple(skipped),
    )


def _outcome(reward: Any) -> Outcome:
    if isinstance(reward, bool) or not isinstance(reward, int | float):
        return "unknown"
    return "ok" if abs(reward - 1) <= _TOLERANCE else "failed"


def _error(info: Any) -> str:
    """What ended a trial that never began."""
    said = info.get("error") if isinstance(info, dict) else info
    return str(said or "")[:200]


def _domain(messages: list[dict[str, Any]]) -> str:
    """Task ids count within a domain, which only the heading of its policy names."""
    first = messages[0] if messages else {}
    if first.get("role") != "system" or not isinstance(first["content"], str):
        return "unknown"
    heading = first["content"].strip().partition("\n")[0].lower()
    words = "".join(c if c.isascii() and c.isalnum() else " " for c in heading).split()
    return "-".join(words[:4]) or "unknown"
