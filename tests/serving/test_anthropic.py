"""Anthropic's protocol as it goes over the wire: requests, errors, the order of events."""

import json
from typing import Any

import anthropic
import openai
import pytest

from tests.serving.asking import wait_until
from tests.serving.conftest import ALIAS, Appliance, GatewayProcess, say
from tests.serving.engine_simulator import EngineSimulator
from tests.serving.raw import events, post

WEATHER = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Ulm"}}\n</tool_call>'


@pytest.fixture(scope="module")
def key(client: openai.OpenAI) -> str:
    return str(client.api_key)


def ask(text: str, **more: Any) -> dict[str, Any]:
    return {"model": ALIAS, "max_tokens": 200, "messages": say(text), **more}


def test_a_message(gateway: GatewayProcess, key: str) -> None:
    status, headers, message = post(gateway, "messages", key, ask("grün 🌱"))
    assert status == 200
    tokens = len("grün 🌱".encode()) + 1
    usage = message.pop("usage")
    assert usage["output_tokens"] == tokens
    assert usage["cache_read_input_tokens"] == 3
    assert message == {
        "id": headers["request-id"],
        "type": "message",
        "role": "assistant",
        "model": ALIAS,
        "content": [{"type": "text", "text": "grün 🌱"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
    }
    assert headers["x-espalier-adapter"] == "base"


def test_the_events_of_a_stream_in_their_order(gateway: GatewayProcess, key: str) -> None:
    found = events(gateway, "messages", key, ask("ab\n" + CALL, tools=[WEATHER]))
    assert all(name == data["type"] for name, data in found)
    kinds = [name for name, _ in found]
    assert kinds == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    data = [one for _, one in found]
    assert data[0]["message"]["content"] == []
    assert data[0]["message"]["stop_reason"] is None
    assert [one["delta"]["text"] for one in data[2:4]] == ["a", "b"]
    assert data[5]["content_block"]["name"] == "weather"
    assert data[5]["content_block"]["input"] == {}
    assert json.loads(data[6]["delta"]["partial_json"]) == {"city": "Ulm"}
    assert [one["index"] for one in data[1:8]] == [0, 0, 0, 0, 1, 1, 1]
    assert data[8]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    prompt = data[0]["message"]["usage"]["input_tokens"]
    usage = data[8]["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == prompt


def test_an_answer_of_calls_alone_has_no_text_block(gateway: GatewayProcess, key: str) -> None:
    _, _, message = post(gateway, "messages", key, ask(CALL, tools=[WEATHER]))
    assert [block["type"] for block in message["content"]] == ["tool_use"]
    starts = [
        data["content_block"]["type"]
        for name, data in events(gateway, "messages", key, ask(CALL, tools=[WEATHER]))
        if name == "content_block_start"
    ]
    assert starts == ["tool_use"]


STOPS: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "its own end": ({}, "end_turn", None),
    "a stop sequence": ({"stop_sequences": ["x", "TWO"]}, "stop_sequence", "TWO"),
    "no more room": ({"max_tokens": 5}, "max_tokens", None),
}


@pytest.mark.parametrize("case", STOPS)
def test_why_it_stopped(gateway: GatewayProcess, key: str, case: str) -> None:
    change, reason, sequence = STOPS[case]
    _, _, message = post(gateway, "messages", key, ask("one TWO three", **change))
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, sequence)
    (*_, (_, last), _) = events(gateway, "messages", key, ask("one TWO three", **change))
    assert last["delta"] == {"stop_reason": reason, "stop_sequence": sequence}


def test_a_conversation_becomes_the_same_prompt_as_in_openais_shape(
    gateway: GatewayProcess, key: str, appliance: Appliance, engine: EngineSimulator
) -> None:
    conversation = [
        {"role": "user", "content": [{"type": "text", "text": "how is it in Ulm?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Ulm"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "rain"},
                {"type": "text", "text": say("so")[0]["content"]},
            ],
        },
    ]
    body = ask("", messages=conversation, tools=[WEATHER], system="Be short.", top_k=7)
    status, _, message = post(gateway, "messages", key, body)
    assert (status, message["content"][0]["text"]) == (200, "so")
    function = {"name": "weather", "arguments": '{"city": "Ulm"}'}
    chat = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "how is it in Ulm?"},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "user", "content": say("so")[0]["content"]},
    ]
    tools = [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "The weather of a city.",
                "parameters": WEATHER["input_schema"],
            },
        }
    ]
    assert engine.requests[-1].prompt_ids == appliance.template.encode(chat, tools)
    assert engine.requests[-1].top_k == 7
    (turn,) = appliance.turns(message["id"])
    assert list(turn.messages) == chat
    assert turn.answer == {"role": "assistant", "content": "so"}
    count = {name: body[name] for name in ("model", "messages", "tools", "system")}
    status, _, counted = post(gateway, "messages/count_tokens", key, count)
    assert (status, counted) == (200, {"input_tokens": len(engine.requests[-1].prompt_ids)})


FAILED: dict[str, tuple[dict[str, Any], str]] = {
    "it failed": ({"content": "no such city", "is_error": True}, "Error: no such city"),
    "it says so itself": ({"content": "Error: no city", "is_error": True}, "Error: no city"),
    "it says nothing": ({"is_error": True}, "Error: "),
    "in blocks": (
        {"content": [{"type": "text", "text": "no city"}], "is_error": True},
        "Error: no city",
    ),
    "it did not": ({"content": "rain", "is_error": False}, "rain"),
}


@pytest.mark.parametrize("case", FAILED)
def test_the_model_sees_that_a_tool_failed(
    gateway: GatewayProcess, key: str, appliance: Appliance, engine: EngineSimulator, case: str
) -> None:
    result, seen = FAILED[case]
    conversation = [
        {"role": "user", "content": say("so")[0]["content"]},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "c1", "name": "weather", "input": {}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", **result}]},
    ]
    body = ask("", messages=conversation, tools=[WEATHER])
    status, _, message = post(gateway, "messages", key, body)
    assert status == 200
    prompt = appliance.template.decode(engine.requests[-1].prompt_ids)
    assert f"<tool_response>\n{seen}\n</tool_response>" in prompt
    (turn,) = appliance.turns(message["id"])
    assert turn.messages[-1] == {"role": "tool", "tool_call_id": "c1", "content": seen}


BAD: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "no max_tokens": ({"max_tokens": None}, 400, "invalid_request_error", "max_tokens"),
    "no messages": ({"messages": []}, 400, "invalid_request_error", "messages"),
    "a picture": (
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
        400,
        "invalid_request_error",
        "'image'",
    ),
    "a call by the user": (
        {"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]},
        400,
        "invalid_request_error",
        "'tool_use'",
    ),
    "a call without a name": (
        {
            "messages": [
                {"role": "assistant", "content": [{"type": "tool_use"}]},
                {"role": "user", "content": "x"},
            ]
        },
        400,
        "invalid_request_error",
        "function.name",
    ),
    "content of another kind": (
        {"messages": [{"role": "user", "content": 3}]},
        400,
        "invalid_request_error",
        "None",
    ),
    "an answer begun": (
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "{"}]},
        400,
        "invalid_request_error",
        "last message",
    ),
    "temperature": ({"temperature": 1.5}, 400, "invalid_request_error", "temperature"),
    "a forced tool, and none there": (
        {"tool_choice": {"type": "any"}},
        400,
        "invalid_request_error",
        "no tool at all",
    ),
    "a server's tool": (
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        400,
        "invalid_request_error",
        "tools[0]",
    ),
    "thinking": (
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        400,
        "invalid_request_error",
        "thinking",
    ),
    "effort": ({"output_config": {"effort": "high"}}, 400, "invalid_request_error", "effort"),
    "a tool and a schema": (
        {
            "tools": [WEATHER],
            "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
        },
        400,
        "invalid_request_error",
        "one of them",
    ),
    "model": ({"model": "claude"}, 404, "not_found_error", "no model 'claude'"),
    "too long": (
        {"messages": [{"role": "user", "content": "x" * 3000}]},
        400,
        "invalid_request_error",
        "2048",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_told_in_anthropics_shape(
    gateway: GatewayProcess, key: str, case: str
) -> None:
    change, status, kind, word = BAD[case]
    got, _, body = post(gateway, "messages", key, {**ask("x"), **change})
    assert (got, body["type"], body["error"]["type"]) == (status, "error", kind)
    assert word in body["error"]["message"]


def test_keys_come_in_either_header(gateway: GatewayProcess, key: str) -> None:
    assert post(gateway, "messages", "", ask("x"), x_api_key=key, authorization="")[0] == 200
    assert post(gateway, "messages", key, ask("x"))[0] == 200
    status, _, body = post(gateway, "messages", "", ask("x"), x_api_key="esp-no", authorization="")
    assert (status, body["error"]["type"]) == (401, "authentication_error")


def test_an_unknown_route_is_told_in_the_callers_shape(gateway: GatewayProcess, key: str) -> None:
    version = {"anthropic_version": "2023-06-01"}
    assert post(gateway, "messages/batches", key, {})[2]["error"]["type"] == "not_found_error"
    assert post(gateway, "complete", key, {}, **version)[2]["type"] == "error"
    assert "type" not in post(gateway, "complete", key, {})[2]


def test_leaving_stops_the_engine_and_is_logged(
    gateway: GatewayProcess, key: str, engine: EngineSimulator, appliance: Appliance
) -> None:
    before = engine.left_early
    with anthropic.Anthropic(base_url=gateway.url, api_key=key, max_retries=0) as client:  # noqa: SIM117
        with client.messages.stream(
            model=ALIAS, max_tokens=1500, messages=say("long " * 200, 0.005)
        ) as stream:
            message_id = next(iter(stream)).message.id
    wait_until(lambda: engine.left_early == before + 1)
    wait_until(lambda: appliance.turns(message_id))
    (turn,) = appliance.turns(message_id)
    assert turn.finish_reason == "error"
    assert ("long " * 200).startswith(turn.answer["content"])
