"""SWE-agent trajectories (`.traj`): text actions, XML actions and function calling.

`history` is what the agents saw, each message marked with its agent; an agent's prompt is its own
messages only, so several agents in one file are several roots of one tree. Messages marked as a
demonstration are part of the prompt, never answers. Without a history, each step's `query` and
`response` say the same. Submitting a patch is not success: the outcome is unknown.
"""

from typing import Any

from appliance.core.errors import RecordError
from collectors.importing.draft import Draft, DraftTurn, Raw, Skipped
from collectors.importing.messages import clean_message, finish_reason, is_empty, turns_of

FORMAT = "swe-agent"


def claims(record: Raw) -> bool:
    """Whether the record is one run."""
    if isinstance(record.get("history"), list):
        return True
    steps = record.get("trajectory")
    return isinstance(steps, list) and any(isinstance(s, dict) and "response" in s for s in steps)


def read(record: Raw) -> Draft:
    """One run.

    Raises:
        RecordError: neither `history` nor `trajectory` holds a conversation.
    """
    history = record.get("history")
    if isinstance(history, list) and history:
        turns, skipped = _from_history(history)
    else:
        turns, skipped = _from_steps(record.get("trajectory") or [])
    if not turns:
        skipped.append(Skipped(where="", reason="no_answers"))
    info = record.get("info") if isinstance(record.get("info"), dict) else {}
    return Draft(
        format=FORMAT,
        turns=tuple(turns),
        task=_task(record),
        family=FORMAT,
        tags={"exit_status": str((info or {}).get("exit_status") or "")},
        skipped=tuple(skipped),
    )


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


def _from_steps(steps: list[Any]) -> tuple[list[DraftTurn], list[Skipped]]:
    turns: list[DraftTurn] = []
    skipped: list[Skipped] = []
    for number, step in enumerate(steps):
        query = step.get("query") if isinstance(step, dict) else None
        if not isinstance(query, list) or not query:
            skipped.append(Skipped(where=f"step {number}", reason="no_prompt"))
            continue
        answer = clean_message(
            {**step, "role": "assistant", "content": step.get("response")}, number
        )
        if is_empty(answer):
            skipped.append(Skipped(where=f"step {number}", reason="empty_answer"))
            continue
        messages = tuple(clean_message(raw, position) for position, raw in enumerate(query))
        turns.append(
            DraftTurn(messages=messages, answer=answer, finish_reason=finish_reason(answer))
        )
    if not turns and not skipped:
        raise RecordError("a .traj without history and without steps")
    return turns, skipped


def _task(record: Raw) -> str | None:
    """The instance that was worked on, where the run's configuration names it."""
    replay = record.get("replay_config")
    agent = replay.get("agent") if isinstance(replay, dict) else None
    problem = replay.get("problem_statement") if isinstance(replay, dict) else None
    for place, field in ((record, "instance_id"), (problem, "id"), (agent, "name")):
        if isinstance(place, dict) and isinstance(place.get(field), str) and place[field]:
            return f"{FORMAT}/{place[field]}"
    return None
