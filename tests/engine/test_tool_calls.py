import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from appliance.engine.tool_calls import calls_grammar, first_call_end, parse_answer

BYTES = LLTokenizer("byte")
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


def keeps(grammar, text):
    """Whether a text keeps to a grammar from its begin to its end."""
    matcher = LLMatcher(BYTES, LLMatcher.grammar_from_lark(grammar), log_level=0)
    spelled = list(text.encode())
    return matcher.try_consume_tokens(spelled) == len(spelled) and matcher.is_accepting()


def call(name, arguments):
    spelled = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{spelled}\n</tool_call>"


LOOK = {"properties": {"at": {"$ref": "#/$defs/place"}}, "required": ["at"], "$defs": {
    "place": {"enum": ["Ulm", "Bonn"]}}}  # fmt: skip
TOOLS = {"look": LOOK, "end": {"additionalProperties": False}}


@pytest.mark.parametrize(
    ("text", "once", "many"),
    [
        (call("look", {"at": "Ulm"}), True, True),
        (call("look", {"at": "Ulm", "more": [1, {"a": None}]}), True, True),
        (call("end", {}), True, True),
        (call("end", {}) + "\n" + call("look", {"at": "Bonn"}), False, True),
        (call("look", {"at": "Rome"}), False, False),
        (call("look", {}), False, False),
        (call("end", {"now": True}), False, False),
        (call("other", {}), False, False),
        ("I look. " + call("end", {}), False, False),
        (call("end", {}) + "\n", False, False),
        ("", False, False),
    ],
)
def test_a_grammar_of_calls_allows_calls_of_these_tools_alone(text, once, many):
    assert keeps(calls_grammar(TOOLS, once=True), text) is once
    assert keeps(calls_grammar(TOOLS, once=False), text) is many


@given(name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20))
def test_a_tools_name_breaks_no_grammar(name):
    assert keeps(calls_grammar({name: {}}, once=True), call(name, {"a": name}))


def test_words_that_no_engine_knows_are_a_wish():
    schema = {"properties": {"a": {"type": "string", "format": "no-such"}, "b": {"not": {}}}}
    assert keeps(calls_grammar({"f": schema}, once=True), call("f", {"a": "x"}))


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (f"I look.\n{CALL}\nmore", len(f"I look.\n{CALL}")),
        (CALL.replace("é", "</tool_call>"), len(CALL) - 1 + len("</tool_call>")),
        (CALL.removesuffix("</tool_call>"), None),
        ("</tool_call> in prose", None),
        ("<tool_call>" + '{"name": ' * 100_000, None),
    ],
)
def test_the_first_call_ends_where_its_json_does(text, end):
    assert first_call_end(text) == end


def test_a_tag_in_a_string_is_read_back():
    message = parse_answer(CALL.replace("é", "<tool_call></tool_call>"))
    (call,) = message["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"a": "<tool_call></tool_call>"}


@pytest.mark.parametrize("name", ["naïve", 'a"b', "a\\b", "a\nb", "a\x7fb", "</tool_call>"])
def test_any_name_can_be_forced(name):
    grammar = calls_grammar({name: {}}, once=True)
    assert not LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(grammar))
