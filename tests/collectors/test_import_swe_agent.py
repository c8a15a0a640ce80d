"""SWE-agent's runs and their kin, by what defines them."""

import json
from typing import Any

import pytest

from collectors.importing import swe_agent
from collectors.importing.importer import FORMATS
from tests.collectors.conversation import ANSWER, CALL, SYSTEM, USER


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
