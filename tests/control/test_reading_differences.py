"""What differs between two answers, and that no two answers keep a page waiting."""

import random
import time

import pytest

from appliance.control.reading.differences import Difference, call_differences, tool_calls
from appliance.control.reading.differences import text_difference as differ


def sides(found: Difference) -> tuple[str, str]:
    return (
        "".join(text for op, text in found.parts if op != "ins"),
        "".join(text for op, text in found.parts if op != "del"),
    )


def test_words_that_changed_are_told_from_words_that_stayed() -> None:
    found = differ("a period of 30 days, sorry", "a period of 45 days, sorry")
    assert found.by == "word"
    assert found.parts == [
        ("same", "a period of "),
        ("del", "30 "),
        ("ins", "45 "),
        ("same", "days, sorry"),
    ]


@pytest.mark.parametrize(
    ("before", "after", "gone", "come"),
    [
        ("はい、返金できます。", "いいえ、返金できます。", "は", "いえ"),
        ("لا. انتهت المدة", "نعم. انتهت المدة", "لا", "نعم"),
        ("f(x)", "f(y)", "x", "y"),
    ],
    ids=["no-spaces", "right-to-left", "code"],
)
def test_any_script_is_compared_finely(before: str, after: str, gone: str, come: str) -> None:
    found = differ(before, after)
    deleted = "".join(text for op, text in found.parts if op == "del")
    inserted = "".join(text for op, text in found.parts if op == "ins")
    assert (deleted.strip(), inserted.strip()) == (gone, come)


def test_parts_put_together_are_both_texts() -> None:
    draw = random.Random(7)
    for _ in range(500):
        before, after = (
            "".join(draw.choice(("a ", "b ", "ab", "\n", "é")) for _ in range(draw.randint(0, 40)))
            for _ in range(2)
        )
        assert sides(differ(before, after)) == (before, after)


def test_a_text_that_repeats_itself_is_still_compared_word_by_word() -> None:
    """difflib alone passes over words that come often, and calls all of it changed."""
    found = differ("over in 30 days. " * 60, "over in 45 days. " * 60)
    assert [text for op, text in found.parts if op == "del"] == ["30 "] * 60


def test_long_texts_are_compared_by_lines() -> None:
    lines = [f"line {i} of a long answer\n" for i in range(1500)]
    found = differ("".join(lines), "".join([*lines[:700], "other\n", *lines[701:]]))
    assert found.by == "line"
    assert [text for op, text in found.parts if op == "del"] == ["line 700 of a long answer\n"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x" * 10_000_000, "x" * 9_999_999 + "y"),
        ("abc def\n" * 1_250_000, "abc def\n" * 1_250_000 + "z"),
        (" ".join(str(i % 97) for i in range(2000)), " ".join(str(-i % 89) for i in range(2000))),
        ("<tool_call>" * 100_000, "<tool_call>a" + " " * 1_000_000 + "b"),
    ],
    ids=["10-MB-line", "10-MB-lines", "nothing-shared", "open-calls"],
)  # fmt: skip
def test_no_texts_keep_a_page_waiting(before: str, after: str) -> None:
    began = time.thread_time()
    found = differ(before, after)
    call_differences(tool_calls(before), tool_calls(after))
    assert time.thread_time() - began < 0.5
    assert sum(len(text) for _, text in found.parts) + len(found.note) < 10_000


def test_a_text_too_long_says_where_it_begins_to_differ() -> None:
    found = differ("x" * 1_000_000, "x" * 999_999 + "y")
    assert found.by == "nothing"
    assert "from character 1000000 on" in found.note


HERMES = '<tool_call>\n{"name": "pay", "arguments": {"eur": 3, "to": "Ada"}}\n</tool_call>'


@pytest.mark.parametrize(
    "text",
    [
        HERMES,
        HERMES.removesuffix("</tool_call>"),
        '{"name": "pay", "parameters": {"eur": 3, "to": "Ada"}}',
        '[{"type": "function", "function": {"name": "pay", '
        '"arguments": "{\\"eur\\": 3, \\"to\\": \\"Ada\\"}"}}]',
        '{"role": "assistant", "tool_calls": [{"function": {"name": "pay", '
        '"arguments": "{\\"eur\\": 3, \\"to\\": \\"Ada\\"}"}}]}',
    ],
    ids=["hermes", "no-end", "bare", "openai", "message"],
)
def test_tool_calls_are_found_in_every_form(text: str) -> None:
    (call,) = tool_calls(text)
    assert (call.name, call.arguments) == ("pay", {"eur": 3, "to": "Ada"})


@pytest.mark.parametrize(
    "text",
    ["", "pay(3)", "{", '{"name": 3}', "[[[[", "{" * 100_000, '"name"', '{"eur": 3}'],
)
def test_what_is_no_call_is_none(text: str) -> None:
    assert tool_calls(text) == []


def test_calls_are_compared_argument_by_argument() -> None:
    before = tool_calls(HERMES)
    after = tool_calls(HERMES.replace("3", "30").replace('"to"', '"note": null, "to"') + HERMES)
    first, second = call_differences(before, after)
    assert [(one.name, one.champion, one.candidate, one.same) for one in first.arguments] == [
        ("eur", "3", "30", False),
        ("to", '"Ada"', '"Ada"', True),
        ("note", None, "null", False),
    ]
    assert (second.champion, second.candidate, second.same) == ("", "pay", False)
    assert call_differences(before, before)[0].same


def test_halves_of_characters_and_long_arguments_can_be_shown() -> None:
    call = tool_calls('{"name": "a\\ud800", "arguments": {"\\udfff": "\\ud800", "b": "' + "x" * 9999
                      + '"}}')  # fmt: skip
    (found,) = call_differences(call, call)
    for text in (found.champion, *(str(one.champion) + one.name for one in found.arguments)):
        text.encode()
        assert len(text) < 1000
