"""Each format by what it defines, not by the files at hand."""

from typing import Any

import pytest

from appliance.core.errors import RecordError
from collectors.importing import openai_chat, swe_agent, tau_bench
from collectors.importing.importer import FORMATS
from collectors.importing.messages import clean_message

SYSTEM = {"role": "system", "content": "# Retail policy\nBe kind."}
USER = {"role": "user", "content": "hello"}
ANSWER = {"role": "assistant", "content": "hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("reward", "outcome"),
    [
        (1.0, "ok"),
        (1, "ok"),
        (0.0, "failed"),
        (0.5, "failed"),
        (None, "unknown"),
        (True, "unknown"),
    ],
)
def test_tau_bench_reward_is_never_rounded_up(reward: Any, outcome: str) -> None:
    record = {"task_id": 7, "trial": 2, "reward": reward, "traj": [SYSTEM, USER, ANSWER]}
    draft = tau_bench.read(record)
    assert draft.outcome == outcome
    assert draft.task == "tau-bench/retail-policy/7"
    assert draft.turns[0].messages == (clean_message(SYSTEM, 0), clean_message(USER, 1))


def test_a_crashed_trial_is_named_not_imported() -> None:
    record = {"task_id": 1, "reward": 0.0, "info": {"error": "boom"}, "traj": []}
    draft = tau_bench.read(record)
    assert not draft.turns
    assert [(s.reason, s.detail) for s in draft.skipped] == [("no_answers", "boom")]


def test_each_turn_holds_everything_before_its_answer() -> None:
    tool = {"role": "tool", "tool_call_id": "c1", "name": "look", "content": "seen"}
    called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    draft = tau_bench.read(
        {"task_id": 1, "reward": 1.0, "traj": [USER, called, tool, ANSWER, USER]}
    )
    assert [len(turn.messages) for turn in draft.turns] == [1, 3]
    assert draft.turns[0].answer["tool_calls"] == [CALL]
    assert draft.turns[0].finish_reason == "tool_calls"
    assert draft.turns[1].messages[2]["tool_call_id"] == "c1"


def test_traj_keeps_each_agents_own_view() -> None:
    history = [
        {**SYSTEM, "agent": "main"},
        {**USER, "agent": "main"},
        {**ANSWER, "agent": "main", "thought": "t", "action": "a"},
        {"role": "system", "content": "sub", "agent": "helper"},
        {"role": "assistant", "content": "sub answer", "agent": "helper"},
        {"role": "user", "content": "result", "agent": "main"},
        {"role": "assistant", "content": "done", "agent": "main"},
    ]
    draft = swe_agent.read({"history": history, "info": {"exit_status": "submitted"}})
    assert [len(turn.messages) for turn in draft.turns] == [2, 4, 1]
    assert draft.outcome == "unknown", "submitting is not success"
    assert set(draft.turns[0].answer) == {"role", "content"}


def test_traj_demonstrations_are_prompt_only() -> None:
    history = [
        SYSTEM,
        USER,
        {**ANSWER, "is_demo": True},
        USER,
        {"role": "assistant", "content": "own"},
    ]
    draft = swe_agent.read({"history": history})
    assert [turn.answer["content"] for turn in draft.turns] == ["own"]
    assert len(draft.turns[0].messages) == 4
    assert [s.reason for s in draft.skipped] == ["demonstration"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("text", "text"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": {}}], "ab"),
        (None, None),
    ],
)
def test_traj_content_may_be_text_parts_or_null(content: Any, expected: str | None) -> None:
    answer = {"role": "assistant", "content": content, "tool_calls": [CALL]}
    observed = {
        "role": "tool",
        "content": [{"type": "text", "text": "out"}],
        "tool_call_ids": ["c1"],
    }
    draft = swe_agent.read({"history": [USER, answer, observed, ANSWER]})
    assert draft.turns[0].answer["content"] == expected
    assert draft.turns[1].messages[2] == {"role": "tool", "content": "out", "tool_call_id": "c1"}


def test_traj_without_history_is_read_from_its_steps() -> None:
    steps = [
        {"query": [SYSTEM, USER], "response": "first", "action": "ls", "observation": "x"},
        {"query": [], "response": "lost"},
        {"query": [SYSTEM, USER, ANSWER, USER], "response": "", "tool_calls": [CALL]},
    ]
    draft = swe_agent.read({"trajectory": steps})
    assert [len(turn.messages) for turn in draft.turns] == [2, 4]
    assert [s.reason for s in draft.skipped] == ["no_prompt"]


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
    "bad",
    [
        {"messages": "no list"},
        {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": ["text"]},
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {}}]}]},
        {"request": {"messages": [USER]}, "response": {"choices": []}, "messages": 3},
        {"task_id": 1, "traj": {"a": 1}},
        {"history": [{"role": "user", "content": "x"}, 5]},
    ],
)
def test_what_is_no_conversation_is_refused(bad: dict[str, Any]) -> None:
    form = next(form for form in FORMATS if form.claims(bad))
    try:
        draft = form.read(bad)
    except RecordError:
        return
    assert not draft.turns
    assert draft.skipped


def test_unknown_objects_are_claimed_by_nobody() -> None:
    assert not any(form.claims({"a": 1, "trajectory": []}) for form in FORMATS)
