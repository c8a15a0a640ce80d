import json

import pytest

from appliance.engine.tool_calls import parse_answer

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": "é"}}\n</tool_call>'


def names(message):
    return [call["function"]["name"] for call in message.get("tool_calls", [])]


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("plain", "plain", []),
        (CALL, None, ["f"]),
        (f"thinking\n{CALL}", "thinking", ["f"]),
        (f"{CALL}\n{CALL}", None, ["f", "f"]),
        (CALL.removesuffix("\n</tool_call>"), None, ["f"]),
        ("<tool_call>{broken</tool_call>", "<tool_call>{broken</tool_call>", []),
        ('<tool_call>{"name": "f", "arg', '<tool_call>{"name": "f", "arg', []),
        (f"{CALL}\n<tool_call>no</tool_call>", f"{CALL}\n<tool_call>no</tool_call>", []),
    ],
)
def test_answers(text, content, calls):
    message = parse_answer(text)
    assert (message["content"], names(message)) == (content, calls)


def test_arguments_are_json_text_and_ids_differ():
    message = parse_answer(f"{CALL}{CALL}", [{"type": "function"}])
    first, second = message["tool_calls"]
    assert json.loads(first["function"]["arguments"]) == {"a": "é"}
    assert first["id"] != second["id"]


def test_without_tools_nothing_is_a_call():
    assert parse_answer(CALL, []) == {"role": "assistant", "content": CALL}
