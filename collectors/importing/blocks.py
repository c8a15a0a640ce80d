"""Messages in Anthropic's form, as OpenAI's: blocks of content become text, calls and results.

A `tool_use` block is a tool call; a `tool_result` block is a message of its own, before what else
the user said. What a message had beside its content (its agent, say) stays with every part of it.
"""

import json
from typing import Any


def opened(raw: Any) -> Any:
    """The list of messages with such blocks taken apart; anything else as it came."""
    if not isinstance(raw, list):
        return raw
    return [part for message in raw for part in _opened(message)]


def _opened(message: Any) -> list[Any]:
    blocks = message.get("content") if isinstance(message, dict) else None
    if not isinstance(blocks, list):
        return [message]
    uses = [block for block in blocks if _is(block, "tool_use")]
    results = [block for block in blocks if _is(block, "tool_result")]
    if not uses and not results:
        return [message]
    rest = [block for block in blocks if not _is(block, "tool_use", "tool_result")]
    parts = [_result(message, block) for block in results]
    if rest or uses:
        calls = {"tool_calls": [_call(block) for block in uses]} if uses else {}
        parts.append({**message, "content": rest or None, **calls})
    return parts


def _is(block: Any, *kinds: str) -> bool:
    return isinstance(block, dict) and block.get("type") in kinds


def _call(block: dict[str, Any]) -> dict[str, Any]:
    arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
    function = {"name": block.get("name"), "arguments": arguments}
    return {"id": str(block.get("id") or ""), "type": "function", "function": function}


def _result(message: dict[str, Any], block: dict[str, Any]) -> dict[str, Any]:
    call_id = str(block.get("tool_use_id") or "")
    return {**message, "role": "tool", "content": block.get("content"), "tool_call_id": call_id}
