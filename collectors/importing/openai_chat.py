"""OpenAI chat: conversations as they are used for fine-tuning, and logged requests and responses.

A conversation is ``{"messages": […], "tools": …}``; an assistant message with ``weight`` 0 is part
of the prompt. A preference is an ``input`` and its ``preferred_output``; the other one is skipped.
A log line holds a request and its response, each perhaps under ``body``; a response is one of the
API, a message or a text. A line may say in ``metadata`` (or beside it) which `task`, `family` and
`session` it belongs to, and in `outcome` how it ended; otherwise the outcome is unknown.
"""

from typing import Any

from appliance.core.records import Outcome
from collectors.importing.blocks import opened
from collectors.importing.draft import Draft, DraftTurn, Raw, Skipped
from collectors.importing.messages import (
    clean_message,
    clean_messages,
    clean_tools,
    finish_reason,
    is_empty,
    turns_of,
)

FORMAT = "openai-chat"
_REQUEST_NAMES = ("request", "input", "kwargs", "body")
_RESPONSE_NAMES = ("response", "output", "completion")


def claims(record: Raw) -> bool:
    """Whether the record is a conversation, or a logged request or response."""
    return "messages" in record or _request(record) is not None or _response(record) is not None


def read(record: Raw) -> Draft:
    """One line.

    Raises:
        RecordError: `messages` is not a conversation.
    """
    wrapped = _request(record)
    request = record if wrapped is None else wrapped
    response = _response(record)
    turns: list[DraftTurn] = []
    skipped: list[Skipped] = []
    without = Skipped(where="", reason="no_answers")
    if response is not None and "messages" not in request:
        without = Skipped(where="", reason="no_prompt", detail="an answer without its request")
    elif response is not None:
        turns, skipped = _logged(request, response)
    elif wrapped is not None and _is_logged(record):
        # What its prompt holds was answered, and logged, before.
        without = Skipped(where="", reason="no_answers", detail=_said(record))
    else:
        turns, skipped = _conversation(record, request)
    if not turns:
        skipped.append(without)
    facts = _facts(record, request)
    return Draft(
        format=FORMAT,
        turns=tuple(turns),
        outcome=_outcome(facts.get("outcome")),
        task=facts.get("task"),
        family=facts.get("family"),
        session=facts.get("session"),
        joins=response is not None,
        skipped=tuple(skipped),
    )


def _conversation(record: Raw, request: Raw) -> tuple[list[DraftTurn], list[Skipped]]:
    """Everything that the assistant said; of a preference, what was preferred."""
    raw = opened(request.get("messages"))
    first = 0
    others: list[Skipped] = []
    preferred = record.get("preferred_output")
    if isinstance(preferred, list) and isinstance(raw, list):
        first, raw = len(raw), [*raw, *opened(preferred)]
        others.append(Skipped(where="non_preferred_output", reason="not_preferred"))
    turns, skipped = turns_of(
        clean_messages(raw),
        tools=clean_tools(request),
        own=lambda position: position >= first and raw[position].get("weight", 1) != 0,
    )
    return turns, skipped + others


def _logged(request: Raw, response: Raw) -> tuple[list[DraftTurn], list[Skipped]]:
    messages = tuple(clean_messages(request.get("messages")))
    choices = response["choices"]
    created = response.get("created")
    turns: list[DraftTurn] = []
    skipped: list[Skipped] = []
    for number, choice in enumerate(choices):
        raw = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(raw, dict):
            skipped.append(Skipped(where=f"choice {number}", reason="no_message"))
            continue
        answer = clean_message({**raw, "role": raw.get("role") or "assistant"}, len(messages))
        if is_empty(answer):
            skipped.append(Skipped(where=f"choice {number}", reason="empty_answer"))
            continue
        turns.append(
            DraftTurn(
                messages=messages,
                answer=answer,
                tools=clean_tools(request),
                finish_reason=str(choice.get("finish_reason") or finish_reason(answer)),
                choice=number,
                at=float(created) if isinstance(created, int | float) else None,
            )
        )
    return turns, skipped


def _request(record: Raw) -> Raw | None:
    for name in _REQUEST_NAMES:
        value = _unwrapped(record.get(name))
        if isinstance(value, dict) and "messages" in value:
            return value
    return None


def _response(record: Raw) -> Raw | None:
    """The answer of the API, or a bare one in its form."""
    for value in (record, *(_unwrapped(record.get(name)) for name in _RESPONSE_NAMES)):
        if isinstance(value, dict) and _holds_messages(value.get("choices")):
            return value
    if _request(record) is None and _ends_with_answer(record):
        return None
    for name in _RESPONSE_NAMES:
        value = _unwrapped(record.get(name))
        if isinstance(value, str) and value:
            value = {"role": "assistant", "content": value}
        if isinstance(value, dict) and value.get("role") == "assistant":
            return {"choices": [{"message": value}]}
    return None


def _unwrapped(value: Any) -> Any:
    return (
        value["body"] if isinstance(value, dict) and isinstance(value.get("body"), dict) else value
    )


def _holds_messages(choices: Any) -> bool:
    return isinstance(choices, list) and any(
        isinstance(c, dict) and "message" in c for c in choices
    )


def _ends_with_answer(record: Raw) -> bool:
    """Whether nothing is left to answer: a text beside it is no answer of this conversation."""
    messages = record.get("messages")
    if not isinstance(messages, list) or not messages:
        return True
    return isinstance(messages[-1], dict) and messages[-1].get("role") == "assistant"


def _is_logged(record: Raw) -> bool:
    """Whether a line of a log says how its request was answered, or that it was not."""
    return any(name in record for name in (*_RESPONSE_NAMES, "error"))


def _said(record: Raw) -> str:
    """What stands where the answer should, an error for one."""
    said = [record[name] for name in (*_RESPONSE_NAMES, "error") if record.get(name)]
    return str(said[0])[:200] if said else ""


def _facts(record: Raw, request: Raw) -> dict[str, str]:
    """`task`, `family`, `session` and `outcome`, where the line says them."""
    facts: dict[str, str] = {}
    for place in (request.get("metadata"), record.get("metadata"), record):
        for name in ("task", "family", "session", "outcome"):
            value: Any = place.get(name) if isinstance(place, dict) else None
            if isinstance(value, str) and value:
                facts[name] = value
    return facts


def _outcome(text: str | None) -> Outcome:
    if text == "ok":
        return "ok"
    return "failed" if text == "failed" else "unknown"
