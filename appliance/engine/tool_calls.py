"""Tool calls as the model writes them (Hermes: ``<tool_call>{json}</tool_call>``). No I/O.

Read in an answer, and, where a call was asked for, the only thing that an answer may be.
"""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

CALL_BEGIN = "<tool_call>"
CALL_END = "</tool_call>"
# A model that stops right after the JSON has made its call as well: the end tag may be missing.
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)

# Spaced as templates write calls that were made before. Words that llguidance does not know are
# left out of a tool's schema: they are a wish, as they are where nothing is forced.
_AS_TEMPLATES = {
    "whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": True,
}  # fmt: skip


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


def calls_grammar(tools: Mapping[str, Mapping[str, Any]], *, once: bool) -> str:
    """Answers that are calls of these tools and nothing else, as llguidance's Lark.

    Args:
        tools: JSON schema of the arguments, by the tool's name.
        once: one call; else one or more.
    """
    kinds = " | ".join(f"call_{at}" for at in range(len(tools)))
    line, begin, end = map(_quoted, ("\n", f"{CALL_BEGIN}\n", f"\n{CALL_END}"))
    rules = [
        "start: call" if once else f"start: call ({line} call)*",
        f"call: {begin} ({kinds}) {end}",
    ]
    for at, (name, schema) in enumerate(tools.items()):
        head = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": '
        arguments = json.dumps({**schema, "type": "object", "x-guidance": _AS_TEMPLATES})
        rules.append(f'call_{at}: {_quoted(head)} %json {arguments} "}}"')
    return "\n".join(rules)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _parse_call(text: str) -> dict[str, Any]:
    call = msgspec.json.decode(text, type=_Call)
    # The same spelling that templates give it, so that the next prompt holds what was sampled.
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return {
        "id": f"call_{secrets.token_hex(12)}",
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }
