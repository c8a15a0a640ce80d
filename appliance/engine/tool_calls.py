"""Tool calls as the model writes them (Hermes: ``<tool_call>{json}</tool_call>``). No I/O.

Read in an answer, and, where a call was asked for, the only thing that an answer may be.
"""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

CALL_BEGIN = "<tool_call>"
CALL_END = "</tool_call>"
_WHITE = " \t\n\r"
_JSON = json.JSONDecoder()

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
    try:
        found = list(_written_calls(text)) if tools is None or len(tools) else []
        calls = [_parse_call(one.json) for one in found]
    except (msgspec.DecodeError, ValueError, RecursionError):
        calls = []
    if not calls:
        return {"role": "assistant", "content": text}
    ends = [0, *(one.end for one in found)]
    begins = [*(one.begin for one in found), len(text)]
    content = "".join(text[end:begin] for end, begin in zip(ends, begins, strict=True))
    return {"role": "assistant", "content": content.rstrip("\n") or None, "tool_calls": calls}


def first_call_end(text: str) -> int | None:
    """Where the first call ends, with its tag; None while there is none that is whole."""
    try:
        first = next(_written_calls(text), None)
    except (ValueError, RecursionError):
        return None
    return first.end if first is not None and first.closed else None


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
        kept = {**schema, "type": "object", "x-guidance": _AS_TEMPLATES}
        arguments = json.dumps(kept, ensure_ascii=False)
        rules.append(f'call_{at}: {_quoted(head)} %json {arguments} "}}"')
    return "\n".join(rules)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


class _Written(NamedTuple):
    """A call as it stands in a text, from its tag to its tag."""

    begin: int
    end: int
    json: str
    closed: bool
    """A model that stops right after the JSON has made its call as well."""


def _written_calls(text: str) -> Iterator[_Written]:
    # The JSON says where it ends: a tag may stand in one of its strings.
    end = 0
    while (begin := text.find(CALL_BEGIN, end)) >= 0:
        start = _skip_white(text, begin + len(CALL_BEGIN))
        _, stop = _JSON.raw_decode(text, start)
        end = _skip_white(text, stop)
        closed = text.startswith(CALL_END, end)
        if not closed and end < len(text):
            raise ValueError("something else stands where a call's tag should")
        end += len(CALL_END) if closed else 0
        yield _Written(begin, end, text[start:stop], closed)


def _skip_white(text: str, at: int) -> int:
    while at < len(text) and text[at] in _WHITE:
        at += 1
    return at


def _parse_call(text: str) -> dict[str, Any]:
    call = msgspec.json.decode(text, type=_Call)
    # The same spelling that templates give it, so that the next prompt holds what was sampled.
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return {
        "id": f"call_{secrets.token_hex(12)}",
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }
