"""OpenAI chat: conversations as they are used for fine-tuning, and logged requests and responses.

A conversation is ``{"messages": […], "tools": …}``; an assistant message with ``weight`` 0 is part
of the prompt. A log line holds a request and its response, each perhaps under ``body``. A line may
say in ``metadata`` (or beside it) which `task`, `family` and `session` it belongs to, and in
`outcome` how it ended; otherwise the outcome is unknown.
"""

from typing import Any

from appliance.core.errors import RecordError
from appliance.core.records import Outcome
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
_REQUEST_NAMES = ("request", "input", "kwargs")
_RESPONSE_NAMES = ("response", "output", "completion")


def claims(record: Raw) -> bool:
    """Whether the record is a conversation or a logged request."""
    return "messages" in record or _request(record) is not None


def read(record: Raw) -> Draft:
    """One line.

    Raises:
        RecordError: `messages` is not a conversation, or a logged request has no answer.
    """
    request = _request(record)
    response = _response(record)
    logged = response is not None
    if request is None:
        request = record
    if logged:
        turns, skipped = _logged(request, response or {})
    else:
        raw = request.get("messages")
        messages = clean_messages(raw)
        turns, skipped = turns_of(
            messages,
            tools=clean_tools(request),
            own=lambda position: raw[position].get("weight", 1) != 0,  # type: ignore[index]
        )
    if not turns:
        skipped.append(Skipped(where="", reason="no_answers"))
    facts = _facts(record, request)
    return Draft(
        format=FORMAT,
        turns=tuple(turns),
        outcome=_outcome(facts.get("outcome")),
        task=facts.get("task"),
        family=facts.get("family"),
        session=facts.get("session"),
        joins=logged,
        skipped=tuple(skipped),
    )


def _logged(request: Raw, response: Raw) -> tuple[list[DraftTurn], list[Skipped]]:
    messages = tuple(clean_messages(request.get("messages")))
    choices = response.get("choices")
    if not isinstance(choices, list):
        raise RecordError(f"a logged response without choices: {str(response)[:80]}")
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
    return _body(record, _REQUEST_NAMES, "messages")


def _response(record: Raw) -> Raw | None:
    if isinstance(record.get("choices"), list):
        return record
    return _body(record, _RESPONSE_NAMES, "choices")


def _body(record: Raw, names: tuple[str, ...], field: str) -> Raw | None:
    for name in names:
        value = record.get(name)
        if isinstance(value, dict) and isinstance(value.get("body"), dict):
            value = value["body"]
        if isinstance(value, dict) and field in value:
            return value
    return None


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
