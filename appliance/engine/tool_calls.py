"""Tool calls as the model writes them (Hermes: ``<tool_call>{json}</tool_call>``). No I/O."""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

# A model that stops right after the JSON has made its call as well: the end tag may be missing.
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)


class _Call(msgspec.Struct):
    name: str
    arguments: dict[str, Any] = {}


def parse_answer(text: str, tools: Sequence[Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """The assistant message that `text` is: role, content and, where there are any, tool_calls.

    Content that is empty beside calls is None.
    With an empty `tools` nothing is a call. A call that is not well-formed leaves the whole text
    as content: nothing that the model wrote is dropped. Arguments are a JSON text, as on OpenAI's
    wire.
    """
    matches = list(_CALL.finditer(text)) if tools is None or len(tools) else []
    try:
        calls = [_parse_call(match.group(1)) for match in matches]
    except msgspec.DecodeError:
        calls = []
    if not calls:
        return {"role": "assistant", "content": text}
    content = _CALL.sub("", text).rstrip("\n")
    return {"role": "assistant", "content": content or None, "tool_calls": calls}


def _parse_call(text: str) -> dict[str, Any]:
    call = msgspec.json.decode(text, type=_Call)
    # The same spelling that templates give it, so that the next prompt holds what was sampled.
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return {
        "id": f"call_{secrets.token_hex(12)}",
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }
