"""Each format by what it defines, not by the files at hand."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from appliance.core.errors import RecordError
from collectors.importing import tau_bench
from collectors.importing.importer import FORMATS
from collectors.importing.messages import clean_message
from tests.collectors.conversation import ANSWER, CALL, SYSTEM, USER


@pytest.mark.parametrize(
    ("reward", "outcome"),
    [
        (1.0, "ok"),
        (1, "ok"),
        (0.9999999999, "ok"),
        (0.93, "failed"),
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


@pytest.mark.parametrize("info", [{"error": "boom", "traceback": "Traceback …"}, "boom"])
def test_a_crashed_trial_is_named_not_imported(info: Any) -> None:
    record = {"task_id": 1, "reward": 0.0, "info": info, "traj": []}
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


@pytest.mark.parametrize(
    ("fields", "calls"),
    [
        ({"tool_calls": [{"index": 1, **CALL}], "function_call": None}, [{"index": 1, **CALL}]),
        ({"tool_calls": None, "function_call": None}, None),
        ({"tool_calls": [], "function_call": {"name": None, "arguments": ""}}, None),
        (
            {"tool_calls": [], "function_call": CALL["function"]},
            [{"id": "call_look", "type": "function", "function": CALL["function"]}],
        ),
        ({"tool_calls": [{"id": "c1", "name": "look", "arguments": "{}"}]}, [CALL]),
    ],
)
def test_calls_are_found_however_a_client_wrote_them(fields: Any, calls: Any) -> None:
    answer = {**ANSWER, **fields, "provider_specific_fields": None, "annotations": []}
    draft = tau_bench.read({"task_id": 1, "reward": 1, "traj": [USER, answer]})
    assert draft.turns[0].answer == {**ANSWER, **({"tool_calls": calls} if calls else {})}


def test_blocks_of_content_become_text_calls_and_results() -> None:
    arguments = {"a": "ü"}
    traj = [
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "t1", "name": "look", "input": arguments},
                {"type": "tool_use", "id": "t2", "name": "see", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "one"},
                {"type": "tool_result", "tool_use_id": "t2", "content": [{"text": "two"}]},
                {"type": "text", "text": "go on"},
            ],
        },
        ANSWER,
    ]
    first, second = tau_bench.read({"task_id": 1, "reward": 1, "traj": traj}).turns
    assert first.answer["content"] == "Let me see."
    called = [call["function"] for call in first.answer["tool_calls"]]
    assert [(one["name"], json.loads(one["arguments"])) for one in called] == [
        ("look", arguments),
        ("see", {}),
    ]
    assert second.messages[2:] == (
        {"role": "tool", "content": "one", "tool_call_id": "t1"},
        {"role": "tool", "content": "two", "tool_call_id": "t2"},
        {"role": "user", "content": "go on"},
    )


def test_a_result_that_is_a_value_is_its_json() -> None:
    traj = [USER, {**ANSWER, "tool_calls": [CALL]}, {"role": "tool", "content": {"a": "ü"}}, ANSWER]
    draft = tau_bench.read({"task_id": 1, "reward": 1, "traj": traj})
    assert draft.turns[1].messages[2]["content"] == '{"a": "ü"}'


_CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL], "weight": 1}
_LEGACY = {"role": "assistant", "content": [{"text": "a"}], "function_call": CALL["function"]}
_SEEN = {"role": "tool", "content": "seen", "tool_call_ids": ["c1"], "agent": "main"}
_USED = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "look"}]}
_RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]}
_TALK = [SYSTEM, USER, _CALLED, _SEEN, _LEGACY, _USED, _RESULT, ANSWER]
_CHOICES = [{"index": 0, "message": ANSWER, "finish_reason": "stop"}]
_ODD: tuple[Any, ...] = (None, True, 5, "x", [], {}, [5], [[]], {"role": 5}, {"content": "x"})


def _changed(value: Any) -> Iterator[Any]:
    """The value with something odd in each of its places in turn."""
    yield from _ODD
    if not isinstance(value, dict | list):
        return
    for key, child in value.items() if isinstance(value, dict) else enumerate(value):
        for odd in _changed(child):
            whole = value.copy()
            whole[key] = odd
            yield whole


@pytest.mark.parametrize(
    "record",
    [
        {"task_id": 1, "trial": 0, "reward": 1.0, "info": {"error": "e"}, "traj": _TALK},
        {"history": _TALK, "info": {"exit_status": "submitted"}, "replay_config": {"agent": {}}},
        {"trajectory": [{"query": _TALK, "response": "r", "tool_calls": [CALL]}]},
        {"attempts": [{"history": [USER, ANSWER], "info": {}}], "info": {"best_attempt_idx": 0}},
        {"messages": _TALK, "traj_id": "x.1", "resolved": True, "instance_id": "x"},
        {"messages": _TALK, "tools": [{}], "functions": [{}], "metadata": {"task": "t"}},
        {"request": {"body": {"messages": _TALK}}, "response": {"created": 1, "choices": _CHOICES}},
        {"input": {"messages": [USER]}, "preferred_output": [ANSWER]},
    ],
)
def test_whatever_stands_in_a_record_it_is_read_or_refused(record: dict[str, Any]) -> None:
    for one in _changed(record):
        form = next((f for f in FORMATS if isinstance(one, dict) and f.claims(one)), None)
        try:
            draft = form.read(one) if form else None
        except RecordError:
            continue
        assert draft is None or draft.turns or draft.skipped


@pytest.mark.parametrize(
    "bad",
    [
        {"messages": "no list"},
        {"messages": [{"role": ["user"], "content": "x"}]},
        {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": ["text"]},
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {}}]}]},
        {"request": {"messages": [USER]}, "response": {"choices": []}, "messages": 3},
        {"task_id": 1, "traj": {"a": 1}},
        {"traj_id": "x", "messages": "[" * 100_000},
        {"traj_id": "x", "messages": "[" * 100 + "]" * 100},
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
