"""Each format by what it defines, not by the files at hand."""

import json
from collections.abc import Iterator
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


def test_a_step_that_asked_nothing_is_skipped() -> None:
    steps = [{"messages": [USER], "response": "first"}, {"query": [{}], "response": "Exit"}]
    draft = swe_agent.read({"history": [], "trajectory": steps})
    assert [turn.answer["content"] for turn in draft.turns] == ["first"]
    assert [s.reason for s in draft.skipped] == ["no_prompt"]


@pytest.mark.parametrize("spell", [json.dumps, lambda value: value])
def test_a_run_is_named_after_its_problem(spell: Any) -> None:
    replay = {"problem_statement": {"id": "astropy__astropy-1"}, "agent": {"name": "main"}}
    record = {"history": [USER, ANSWER], "replay_config": spell(replay), "info": None}
    assert swe_agent.read(record).task == "swe-agent/astropy__astropy-1"
    assert swe_agent.read({**record, "replay_config": "none"}).task is None


def test_of_several_attempts_the_chosen_one_is_the_run() -> None:
    def attempt(text: str) -> dict[str, Any]:
        return {"history": [USER, {"role": "assistant", "content": text}], "trajectory": []}

    attempts = {"attempts": [attempt("a"), attempt("b"), {"history": []}]}
    for record, text, other in [
        ({**attempts, **attempt("a"), "info": {"best_attempt_idx": 0}}, "a", "attempt 1"),
        (attempts, "b", "attempt 0"),
    ]:
        draft = next(form for form in FORMATS if form.claims(record)).read(record)
        assert [turn.answer["content"] for turn in draft.turns] == [text]
        assert [(s.where, s.reason) for s in draft.skipped] == [(other, "other_attempt")]


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"traj_id": "x.1", "resolved": True, "messages": [USER, ANSWER]}, "ok"),
        ({"traj_id": "x.1", "resolved": False, "messages": json.dumps([USER, ANSWER])}, "failed"),
        (
            {
                "trajectory_format": "mini-swe-agent-1.1",
                "messages": [USER, ANSWER, {"role": "exit", "content": "Submitted"}],
            },
            "unknown",
        ),
    ],
)
def test_runs_of_its_kin_are_read_as_runs(fields: dict[str, Any], outcome: str) -> None:
    record = {"instance_id": "x__y.1", **fields}
    form = next(form for form in FORMATS if form.claims(record))
    draft = form.read(record)
    assert (draft.format, draft.task, draft.outcome) == ("swe-agent", "swe-agent/x__y.1", outcome)
    assert [turn.answer for turn in draft.turns] == [ANSWER]


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
