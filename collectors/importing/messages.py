"""Chat messages of other systems, in the OpenAI form, as our turns hold them.

Fields that a chat template knows are kept (role, content, name, tool_calls, tool_call_id,
refusal); the rest, thoughts among it, stays in the raw record. Legacy function calls become tool
calls.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from appliance.core.errors import RecordError
from appliance.core.records import Json
from collectors.importing.blocks import opened
from collectors.importing.draft import DraftTurn, Skipped

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_THOUGHTS = ("thinking", "redacted_thinking", "reasoning")


def clean_message(raw: Any, position: int) -> dict[str, Any]:
    """One message with the fields that matter.

    Raises:
        RecordError: it is not a chat message.
    """
    if not isinstance(raw, dict):
        raise RecordError(f"message {position}: expected an object, got {type(raw).__name__}")
    role = raw.get("role")
    if role not in ROLES:
        raise RecordError(f"message {position}: unknown role {role!r}")
    content = raw.get("content")
    if role in ("tool", "function") and isinstance(content, dict | int | float):
        # A result that was logged as the value it is, not as its text.
        content = json.dumps(content, ensure_ascii=False)
    message: dict[str, Any] = {"role": role, "content": _content(content, position)}
    if isinstance(raw.get("name"), str):
        message["name"] = raw["name"]
    if isinstance(raw.get("refusal"), str):
        message["refusal"] = raw["refusal"]
    if role == "assistant":
        calls = _tool_calls(raw, position)
        if calls:
            message["tool_calls"] = calls
        elif not message["content"] and "refusal" in message:
            # Templates know no refusals; without its text the answer would be an empty one.
            message["content"] = message["refusal"]
    if role == "tool":
        message["tool_call_id"] = _tool_call_id(raw)
    if role == "function":
        message["role"] = "tool"
        message["tool_call_id"] = f"call_{raw.get('name') or ''}"
    return message


def clean_messages(raw: Any) -> list[dict[str, Any]]:
    """A whole conversation.

    Raises:
        RecordError: not a list of chat messages.
    """
    if not isinstance(raw, list):
        raise RecordError(f"expected a list of messages, got {type(raw).__name__}")
    return [clean_message(message, position) for position, message in enumerate(opened(raw))]


def clean_tools(record: dict[str, Any]) -> tuple[Json, ...]:
    """The tools of a request: `tools`, or the older `functions`."""
    tools = record.get("tools")
    if isinstance(tools, list):
        return tuple(tool for tool in tools if isinstance(tool, dict))
    functions = record.get("functions")
    if isinstance(functions, list):
        return tuple({"type": "function", "function": f} for f in functions if isinstance(f, dict))
    return ()


def is_empty(answer: dict[str, Any]) -> bool:
    """Whether an assistant message says nothing and calls nothing."""
    return not answer.get("content") and not answer.get("tool_calls") and not answer.get("refusal")


def finish_reason(answer: dict[str, Any]) -> str:
    """What an engine would have said at the end of this answer."""
    return "tool_calls" if answer.get("tool_calls") else "stop"


def turns_of(
    messages: Sequence[dict[str, Any]],
    *,
    tools: tuple[Json, ...] = (),
    own: Callable[[int], bool] = lambda _: True,
    where: str = "",
) -> tuple[list[DraftTurn], list[Skipped]]:
    """One turn per assistant message that the agent wrote itself (`own`), prompt before it."""
    turns: list[DraftTurn] = []
    skipped: list[Skipped] = []
    for position, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        place = f"{where}message {position}"
        if not own(position):
            skipped.append(Skipped(where=place, reason="demonstration"))
        elif is_empty(message):
            skipped.append(Skipped(where=place, reason="empty_answer"))
        else:
            turns.append(
                DraftTurn(
                    messages=tuple(messages[:position]),
                    answer=message,
                    tools=tools,
                    finish_reason=finish_reason(message),
                )
            )
    return turns, skipped


def _content(content: Any, position: int) -> Json:
    """Text; a list of parts that say something becomes one text; one with others stays a list."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        kind = type(content).__name__
        raise RecordError(f"message {position}: content is text, null or parts, got {kind}")
    texts = [_text_of(part) for part in content]
    if any(text is None for text in texts):
        return content
    return "".join(text for text in texts if text is not None)


def _text_of(part: Any) -> str | None:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return None
    if part.get("type") in _THOUGHTS:
        return ""
    text = part.get("refusal") if part.get("type") == "refusal" else part.get("text")
    return text if isinstance(text, str) else None


def _tool_calls(raw: dict[str, Any], position: int) -> list[dict[str, Any]]:
    calls = raw.get("tool_calls") or _legacy_call(raw)
    if not isinstance(calls, list):
        raise RecordError(f"message {position}: tool_calls is not a list")
    calls = [_with_function(call) for call in calls]
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RecordError(f"message {position}: a tool call without a function name")
    return calls


def _legacy_call(raw: dict[str, Any]) -> list[dict[str, Any]]:
    function = raw.get("function_call")
    if not isinstance(function, dict) or not function.get("name"):
        return []
    return [{"id": f"call_{function['name']}", "type": "function", "function": function}]


def _with_function(call: Any) -> Any:
    """The call; one that holds its name and arguments itself, in the usual form."""
    if not isinstance(call, dict) or "function" in call or "name" not in call:
        return call
    function = {name: call[name] for name in ("name", "arguments") if name in call}
    return {"id": call.get("id"), "type": "function", "function": function}


def _tool_call_id(raw: dict[str, Any]) -> str:
    one = raw.get("tool_call_id")
    if isinstance(one, str):
        return one
    several = raw.get("tool_call_ids")
    return str(several[0]) if isinstance(several, list) and several else ""
