"""The loop over real HTTP: ask, run, be told, repair or give up."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from appliance.agent import loop
from appliance.agent.environment import TaskEnvironment
from appliance.agent.loop import Work, loop_digest, work
from appliance.agent.model import GatewayModel
from appliance.agent.tasks import Task
from appliance.sandbox.sandbox import Sandbox

RUN = "def run(answer, case): return eval(answer, {'x': case})"
TASK: dict[str, Any] = {
    "task": "double/1",
    "family": "double",
    "messages": [{"role": "user", "content": "double x"}],
    "check": {"kind": "program", "program": RUN, "cases": [1, 5], "expected": [2, 10]},
}


def do(
    gateway: Any,
    sandbox: Sandbox,
    *,
    streams: bool = False,
    max_answers: int = 3,
    key: str = "key",
    **changes: Any,
) -> tuple[Work, GatewayModel]:
    task = Task(**{**TASK, **changes})

    async def run() -> tuple[Work, GatewayModel]:
        async with openai.AsyncOpenAI(
            base_url=gateway.base_url, api_key=key, max_retries=0
        ) as client:
            model = GatewayModel(
                client,
                model="company-model",
                session="s-1",
                max_tokens=task.max_tokens,
                temperature=0.5,
                seed_of=lambda n: 100 + n,
                streams=lambda n: streams,
            )
            environment = TaskEnvironment(task, sandbox)
            done = await work(model, environment, task.messages, max_answers=max_answers)
            return done, model

    return asyncio.run(run())


def says(*answers: Any) -> Callable[[list[dict[str, Any]]], Any]:
    """A script by position: the n-th answer follows n - 1 answers in the prompt."""
    return lambda messages: answers[sum(m["role"] == "assistant" for m in messages)]


def test_solved_at_once(gateway: Any, sandbox: Sandbox) -> None:
    gateway.script = says("2 * x")
    done, model = do(gateway, sandbox)
    assert (done.ended, done.outcome, len(done.attempts)) == ("solved", "ok", 1)
    assert done.attempts[0].turn_id == "chatcmpl-1"
    (request,) = model.requests
    assert request.adapter == gateway.adapter
    assert request.started_at <= request.ended_at
    (body,) = gateway.requests
    assert (body["model"], body["temperature"], body["seed"]) == ("company-model", 0.5, 100)
    assert body["max_tokens"] == 256
    assert "logprobs" not in body
    assert gateway.sessions == ["s-1"]


@pytest.mark.parametrize("streams", [False, True])
def test_second_answer_is_asked_with_the_first_ones_result(
    gateway: Any, sandbox: Sandbox, streams: bool
) -> None:
    gateway.script = says("x + 1", "2 * x")
    done, model = do(gateway, sandbox, streams=streams)
    assert (done.ended, done.outcome) == ("solved", "ok")
    assert [a.verdict.outcome for a in done.attempts] == ["failed", "ok"]
    assert gateway.requests[1]["messages"] == [
        {"role": "user", "content": "double x"},
        {"role": "assistant", "content": "x + 1"},
        {
            "role": "user",
            "content": "That did not work: for 5 it gave 6, which is wrong."
            " Try again, or answer give_up.",
        },
    ]
    assert [r["seed"] for r in gateway.requests] == [100, 101]
    assert [r.streamed for r in model.requests] == [streams, streams]


def test_gives_up(gateway: Any, sandbox: Sandbox) -> None:
    gateway.script = says("x", " stop\n")
    done, _ = do(gateway, sandbox, give_up="stop")
    assert (done.ended, done.outcome, len(done.attempts)) == ("gave_up", "failed", 2)


def test_out_of_answers(gateway: Any, sandbox: Sandbox) -> None:
    gateway.script = lambda messages: "x"
    done, _ = do(gateway, sandbox, max_answers=2)
    assert (done.ended, done.outcome, len(gateway.requests)) == ("out_of_answers", "failed", 2)


def test_run_without_end_is_unknown(gateway: Any, sandbox: Sandbox) -> None:
    gateway.script = lambda messages: "[1 for _ in iter(int, 1)]"
    done, _ = do(gateway, sandbox, max_answers=1, check={**TASK["check"], "timeout_s": 0.3})
    assert (done.ended, done.outcome) == ("out_of_answers", "unknown")


@pytest.mark.parametrize("status", [401, 429, 500])
def test_failed_request_is_on_record_and_is_not_retried(
    gateway: Any, sandbox: Sandbox, status: int
) -> None:
    gateway.script = says("x", status)
    done, model = do(gateway, sandbox)
    assert (done.ended, done.outcome, len(done.attempts)) == ("cut_off", "unknown", 1)
    assert [bool(r.failed) for r in model.requests] == [False, True]
    assert len(gateway.requests) == 2


def test_stream_that_breaks_off_is_a_failed_request(gateway: Any, sandbox: Sandbox) -> None:
    gateway.script, gateway.cut_streams = says("2 * x"), True
    done, model = do(gateway, sandbox, streams=True)
    assert done.ended == "cut_off"
    assert "ended before the answer" in model.requests[0].failed


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("run: failed {got}", "run: failed 6"),
        ("case {case} {error}: {outcome}", "case 5 : failed"),
        ("{unknown} {got} {", "{unknown} 6 {"),
        ("{got.__class__}", "{got.__class__}"),
    ],
)
def test_what_is_told_follows_the_tasks_template(
    gateway: Any, sandbox: Sandbox, template: str, told: str
) -> None:
    gateway.script = says("x + 1", "give_up")
    do(gateway, sandbox, on_failure=template)
    assert gateway.requests[1]["messages"][-1] == {"role": "user", "content": told}


def call(name: str, arguments: str, number: int = 1) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": f"call-{number}", "type": "function", "function": function}


@pytest.mark.parametrize("streams", [False, True])
def test_tools(gateway: Any, sandbox: Sandbox, streams: bool) -> None:
    both = [call("run", json.dumps({"answer": "x"})), call("give_up", "{}", 2)]
    gateway.script = says(
        {"content": None, "tool_calls": both},
        {"content": None, "tool_calls": [call("run", "((")]},
        {"content": None, "tool_calls": [call("run", '{"answer": "x * 2"}')]},
    )
    done, _ = do(gateway, sandbox, tools=True, streams=streams)
    assert (done.ended, len(done.attempts)) == ("solved", 3)
    offered = [tool["function"]["name"] for tool in gateway.requests[0]["tools"]]
    assert offered == ["run", "give_up"]
    *_, asked, first, second = gateway.requests[1]["messages"]
    assert asked["tool_calls"] == both
    assert (first["role"], first["tool_call_id"]) == ("tool", "call-1")
    assert "for 1 it gave 1" in first["content"]
    assert second["content"] == "not run: one call at a time"
    assert "SyntaxError" in gateway.requests[2]["messages"][-1]["content"]


def test_giving_up_by_tool(gateway: Any, sandbox: Sandbox) -> None:
    gateway.script = says({"content": None, "tool_calls": [call("give_up", "{}")]})
    done, _ = do(gateway, sandbox, tools=True)
    assert done.ended == "gave_up"


def test_loop_digest_covers_the_loops_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    before = loop_digest()
    assert before == loop_digest()
    monkeypatch.setattr(loop, "_SOURCES", loop._SOURCES[1:])
    assert loop_digest() != before
