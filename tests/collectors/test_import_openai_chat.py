"""OpenAI chat: conversations, logged requests, preferences."""

from typing import Any

import pytest

from collectors.importing import openai_chat
from tests.collectors.conversation import ANSWER, CALL, USER


def test_chat_lines_respect_weight_and_keep_tools() -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    record = {"messages": [USER, {**ANSWER, "weight": 0}, USER, ANSWER], "tools": tools}
    draft = openai_chat.read(record)
    assert [len(turn.messages) for turn in draft.turns] == [3]
    assert draft.turns[0].tools == tuple(tools)
    assert draft.outcome == "unknown"


def test_legacy_functions_become_tools() -> None:
    record = {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "function_call": CALL["function"]},
            {"role": "function", "name": "look", "content": "seen"},
            ANSWER,
        ],
        "functions": [{"name": "look"}],
    }
    draft = openai_chat.read(record)
    assert draft.turns[0].answer["tool_calls"][0]["function"] == CALL["function"]
    assert draft.turns[1].messages[2]["role"] == "tool"
    assert draft.turns[1].tools == ({"type": "function", "function": {"name": "look"}},)


@pytest.mark.parametrize("wrap", [lambda body: body, lambda body: {"body": body}])
def test_log_lines_give_one_turn_per_choice(wrap: Any) -> None:
    response = {
        "created": 12,
        "choices": [
            {"index": 0, "message": ANSWER, "finish_reason": "stop"},
            {"index": 1, "message": {"role": "assistant", "content": None}},
            {"index": 2, "message": {"role": "assistant", "content": "ho"}},
        ],
    }
    request = {"model": "m", "messages": [USER], "metadata": {"session": "s", "task": "t"}}
    record = {"request": wrap(request), "response": wrap(response), "outcome": "ok"}
    draft = openai_chat.read(record)
    assert [(turn.choice, turn.answer["content"]) for turn in draft.turns] == [(0, "hi"), (2, "ho")]
    assert (draft.session, draft.task, draft.outcome, draft.joins) == ("s", "t", "ok", True)
    assert draft.turns[0].at == 12.0
    assert [s.reason for s in draft.skipped] == ["empty_answer"]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        # What was said before was answered, and logged, before.
        ({"request": {"messages": [USER, ANSWER, USER]}, "response": None}, "no_answers"),
        ({"request": {"messages": [USER]}, "response": {"error": "limit"}}, "no_answers"),
        ({"custom_id": "1", "body": {"messages": [USER]}}, "no_answers"),
        (
            {"custom_id": "1", "response": {"body": {"choices": [{"message": ANSWER}]}}},
            "no_prompt",
        ),
    ],
)
def test_half_a_log_line_is_named_not_imported(record: dict[str, Any], reason: str) -> None:
    draft = openai_chat.read(record)
    assert openai_chat.claims(record)
    assert not draft.turns
    assert [s.reason for s in draft.skipped] == [reason]


@pytest.mark.parametrize(
    "record",
    [
        {"request": {"messages": [USER]}, "response": ANSWER},
        {"messages": [USER], "response": "hi"},
        {"body": {"messages": [USER]}, "response": {"body": {"choices": [{"message": ANSWER}]}}},
        {"messages": [USER, ANSWER], "response": "what another model said"},
        {"messages": [USER, ANSWER], "choices": ["A", "B"]},
    ],
)
def test_an_answer_is_found_where_a_log_keeps_it(record: dict[str, Any]) -> None:
    (turn,) = openai_chat.read(record).turns
    assert (turn.messages, turn.answer) == ((USER,), ANSWER)


def test_of_a_preference_the_preferred_answer_is_read() -> None:
    record = {
        "input": {"messages": [USER, ANSWER, USER]},
        "preferred_output": [{"role": "assistant", "content": "good"}],
        "non_preferred_output": [{"role": "assistant", "content": "bad"}],
    }
    draft = openai_chat.read(record)
    assert [turn.answer["content"] for turn in draft.turns] == ["good"]
    assert draft.turns[0].messages == (USER, ANSWER, USER)
    assert [s.reason for s in draft.skipped] == ["demonstration", "not_preferred"]


@pytest.mark.parametrize(
    "answer",
    [
        {"role": "assistant", "content": None, "refusal": "I cannot."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "I cannot."}]},
    ],
)
def test_a_refusal_is_what_was_said(answer: dict[str, Any]) -> None:
    draft = openai_chat.read({"messages": [USER, answer]})
    assert draft.turns[0].answer["content"] == "I cannot."
