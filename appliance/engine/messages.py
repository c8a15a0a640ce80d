"""Chat messages in the one form that templates are rendered with. No I/O.

OpenAI's wire allows null content, text in parts and arguments as a JSON string; templates were
written for text, and arguments as an object.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from appliance.core.errors import RecordError

Message = dict[str, Any]

_ROLES = {"system", "user", "assistant", "tool"}


def normalise(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The messages as templates want them; the ones given are not changed.

    Null content becomes empty text, text parts are joined, `developer` becomes `system`, arguments
    that are a JSON object's text become that object, and an empty `tool_calls` goes away.

    Raises:
        RecordError: a role, content or tool call that no template can carry.
    """
    return [_normalise(message, index) for index, message in enumerate(messages)]


def _normalise(message: Mapping[str, Any], index: int) -> Message:
    plain = dict(message)
    role = plain.get("role")
    plain["role"] = role = "system" if role == "developer" else role
    if not isinstance(role, str) or role not in _ROLES:
        raise RecordError(f"message {index}: role must be one of {sorted(_ROLES)}, got {role!r}")
    plain["content"] = _text(plain.get("content"), index)
    calls = plain.pop("tool_calls", None)
    if calls:
        if role != "assistant":
            raise RecordError(f"message {index}: only an assistant calls tools, got {role!r}")
        plain["tool_calls"] = [_call(call, index) for call in calls]
    return plain


def _text(content: Any, index: int) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and all(
        isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content
    ):
        return "".join(part["text"] for part in content)
    raise RecordError(f"message {index}: content must be text, null or text parts")


def _call(call: Any, index: int) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RecordError(f"message {index}: a tool call needs function.name")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = _object_in(arguments)
    elif arguments is None:
        arguments = {}
    return {**call, "type": "function", "function": {**function, "arguments": arguments}}


def _object_in(text: str) -> Any:
    """The object that the text spells, or the text itself where it spells none."""
    try:
        value = msgspec.json.decode(text or "{}")
    except msgspec.DecodeError:
        return text
    return value if isinstance(value, dict) else text
