"""SWE-agent trajectories (`.traj`): text actions, XML actions and function calling.

`history` is what the agents saw, each message marked with its agent; an agent's prompt is its own
messages only, so several agents in one file are several roots of one tree. Messages marked as a
demonstration are part of the prompt, never answers. Without a history, each step's `query` (once
called `messages`) and `response` say the same. Of several attempts the chosen one is the run, or,
where none was chosen, the last. Runs of SWE-smith and mini-SWE-agent hold the same in `messages`.
Submitting a patch is no success: the outcome is unknown, unless the record says that tests judged
it (`resolved`).
"""

import json
from typing import Any

from appliance.core.errors import RecordError
from appliance.core.records import Outcome
from collectors.importing.blocks import opened
from collectors.importing.draft import Draft, DraftTurn, Raw, Skipped
from collectors.importing.messages import clean_message, finish_reason, is_empty, turns_of
from policies.redaction import is_too_deep

FORMAT = "swe-agent"
_EXIT = "exit"
"""The role of mini-SWE-agent's last message, which nobody said: how the run ended."""


def claims(record: Raw) -> bool:
    """Whether the record is one run."""
    if isinstance(record.get("history"), list) or _attempts(record):
        return True
    if "messages" in record and ("trajectory_format" in record or "traj_id" in record):
        return True
    steps = record.get("trajectory")
    return isinstance(steps, list) and any(isinstance(s, dict) and "response" in s for s in steps)


def read(record: Raw) -> Draft:
    """One run.

    Raises:
        RecordError: neither a history nor steps hold a conversation.
    """
    run, others = _run(record)
    history = _history(run)
    if history:
        turns, skipped = _from_history(history)
    else:
        turns, skipped = _from_steps(run.get("trajectory") or [])
    skipped += [Skipped(where=f"attempt {number}", reason="other_attempt") for number in others]
    if not turns:
        skipped.append(Skipped(where="", reason="no_answers"))
    info = run.get("info")
    status = info.get("exit_status") if isinstance(info, dict) else None
    return Draft(
        format=FORMAT,
        turns=tuple(turns),
        outcome=_outcome(record.get("resolved")),
        task=_task(record) or _task(run),
        family=FORMAT,
        tags={"exit_status": str(status or "")},
        skipped=tuple(skipped),
    )


def _run(record: Raw) -> tuple[Raw, list[int]]:
    """What is read of a record, and the numbers of its attempts that are not."""
    attempts = _attempts(record)
    if not attempts:
        return record, []
    if _history(record):
        info = record.get("info")
        chosen = info.get("best_attempt_idx") if isinstance(info, dict) else None
        return record, [number for number in attempts if number != chosen]
    last = max(attempts)
    return attempts[last], [number for number in attempts if number != last]


def _attempts(record: Raw) -> dict[int, Raw]:
    attempts = record.get("attempts")
    numbered = enumerate(attempts if isinstance(attempts, list) else ())
    return {number: one for number, one in numbered if isinstance(one, dict) and _history(one)}


def _history(run: Raw) -> list[Any]:
    """What the agents saw, message by message."""
    history = run.get("history") or run.get("messages")
    if isinstance(history, str):
        # Data sets keep the list as its JSON text.
        history = _value_in(history)
    if not isinstance(history, list):
        return []
    last = history[-1] if history else None
    if isinstance(last, dict) and last.get("role") == _EXIT:
        history = history[:-1]
    return list(opened(history))


def _from_history(history: list[Any]) -> tuple[list[DraftTurn], list[Skipped]]:
    messages = [clean_message(raw, position) for position, raw in enumerate(history)]
    by_agent: dict[str, list[int]] = {}
    for position, raw in enumerate(history):
        by_agent.setdefault(str(raw.get("agent", "")), []).append(position)
    turns: list[DraftTurn] = []
    skipped: list[Skipped] = []
    for agent, positions in by_agent.items():
        found, left = turns_of(
            [messages[p] for p in positions],
            own=lambda i, positions=positions: not _is_demonstration(history[positions[i]]),  # type: ignore[misc]
            where=f"agent {agent} " if len(by_agent) > 1 else "",
        )
        turns += found
        skipped += left
    return turns, skipped


def _is_demonstration(raw: Raw) -> bool:
    return bool(raw.get("is_demo")) or raw.get("message_type") == "demonstration"


def _from_steps(steps: Any) -> tuple[list[DraftTurn], list[Skipped]]:
    turns: list[DraftTurn] = []
    skipped: list[Skipped] = []
    for number, step in enumerate(steps if isinstance(steps, list) else ()):
        query = (step.get("query") or step.get("messages")) if isinstance(step, dict) else None
        if not isinstance(query, list) or not any(query):
            skipped.append(Skipped(where=f"step {number}", reason="no_prompt"))
            continue
        answer = clean_message(
            {**step, "role": "assistant", "content": step.get("response")}, number
        )
        if is_empty(answer):
            skipped.append(Skipped(where=f"step {number}", reason="empty_answer"))
            continue
        messages = tuple(clean_message(raw, position) for position, raw in enumerate(opened(query)))
        turns.append(
            DraftTurn(messages=messages, answer=answer, finish_reason=finish_reason(answer))
        )
    if not turns and not skipped:
        raise RecordError("a .traj without history and without steps")
    return turns, skipped


def _task(record: Raw) -> str | None:
    """The instance that was worked on, where the run's configuration names it."""
    replay = record.get("replay_config")
    if isinstance(replay, str):
        replay = _value_in(replay)
    agent = replay.get("agent") if isinstance(replay, dict) else None
    problem = replay.get("problem_statement") if isinstance(replay, dict) else None
    for place, field in ((record, "instance_id"), (problem, "id"), (agent, "name")):
        if isinstance(place, dict) and isinstance(place.get(field), str) and place[field]:
            return f"{FORMAT}/{place[field]}"
    return None


def _value_in(text: str) -> Any:
    """The JSON value that a text spells; None where there is none that a record may hold."""
    try:
        value = json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    return None if is_too_deep(value) else value


def _outcome(resolved: Any) -> Outcome:
    if not isinstance(resolved, bool):
        return "unknown"
    return "ok" if resolved else "failed"
