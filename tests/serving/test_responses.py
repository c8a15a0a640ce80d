"""OpenAI's responses as they go over the wire: requests, errors, the order of events."""

import json
from typing import Any

import openai
import pytest

from tests.serving.asking import wait_until
from tests.serving.conftest import ALIAS, Appliance, GatewayProcess, say
from tests.serving.engine_simulator import EngineSimulator
from tests.serving.raw import events, post

WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Ulm"}}\n</tool_call>'
LOGPROBS = "message.output_text.logprobs"


@pytest.fixture(scope="module")
def key(client: openai.OpenAI) -> str:
    return str(client.api_key)


def ask(text: str, **more: Any) -> dict[str, Any]:
    return {"model": ALIAS, "input": say(text)[0]["content"], **more}


def test_a_response(gateway: GatewayProcess, key: str) -> None:
    status, headers, response = post(gateway, "responses", key, ask("grün 🌱"))
    assert (status, response["status"], response["object"]) == (200, "completed", "response")
    assert response["id"] == headers["x-request-id"]
    (message,) = response["output"]
    part = {"type": "output_text", "text": "grün 🌱", "annotations": [], "logprobs": []}
    assert message["content"] == [part]
    assert (message["role"], message["status"]) == ("assistant", "completed")
    usage = response["usage"]
    assert usage["output_tokens"] == len("grün 🌱".encode()) + 1
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["input_tokens_details"]["cached_tokens"] == 3
    assert (response["store"], response["error"], response["incomplete_details"]) == (
        False,
        None,
        None,
    )


def test_the_events_of_a_stream_in_their_order(gateway: GatewayProcess, key: str) -> None:
    found = events(gateway, "responses", key, ask("ab\n" + CALL, tools=[WEATHER]))
    assert all(name == data["type"] for name, data in found)
    assert [name.removeprefix("response.") for name, _ in found] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    data = [one for _, one in found]
    assert [one["sequence_number"] for one in data] == list(range(len(data)))
    assert [one["delta"] for one in data[4:6]] == ["a", "b"]
    assert data[6]["text"] == "ab"
    assert json.loads(data[11]["arguments"]) == {"city": "Ulm"}
    message, call = data[-1]["response"]["output"]
    assert (message, call) == (data[8]["item"], data[12]["item"])
    assert {one["item_id"] for one in data[3:8]} == {message["id"]}
    assert {one["item_id"] for one in data[10:12]} == {call["id"]}
    assert call["call_id"].startswith("call_")


def test_an_empty_answer_is_an_empty_message(gateway: GatewayProcess, key: str) -> None:
    _, _, response = post(gateway, "responses", key, ask(""))
    assert response["output"][0]["content"][0]["text"] == ""
    kinds = [name for name, _ in events(gateway, "responses", key, ask(""))]
    assert kinds.count("response.output_item.added") == 1


def test_too_little_room_is_an_incomplete_response(gateway: GatewayProcess, key: str) -> None:
    body = ask("abcdef", max_output_tokens=3)
    _, _, response = post(gateway, "responses", key, body)
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    name, last = events(gateway, "responses", key, body)[-1]
    assert (name, last["response"]["status"]) == ("response.incomplete", "incomplete")


def test_logprobs_where_they_are_asked_for(gateway: GatewayProcess, key: str) -> None:
    body = ask("grün", include=[LOGPROBS], top_logprobs=2)
    _, _, response = post(gateway, "responses", key, body)
    logprobs = response["output"][0]["content"][0]["logprobs"]
    assert [one["logprob"] for one in logprobs] == [-0.25] * 6
    assert [one["logprob"] for one in logprobs[0]["top_logprobs"]] == [-0.25, -3.5]
    streamed = [
        one
        for name, data in events(gateway, "responses", key, body)
        if name == "response.output_text.delta"
        for one in data["logprobs"]
    ]
    # All but the end of turn's, which spells nothing.
    assert streamed == logprobs[:-1]


def test_a_conversation_becomes_the_same_prompt_as_in_chat(
    gateway: GatewayProcess, key: str, appliance: Appliance, engine: EngineSimulator
) -> None:
    conversation = [
        {"role": "user", "content": [{"type": "input_text", "text": "how is it in Ulm?"}]},
        {"type": "message", "role": "assistant", "content": "I look."},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"a": 1}'},
        {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        {"type": "function_call_output", "call_id": "c2", "output": "sun"},
        *say("so"),
    ]
    body = ask("", input=conversation, tools=[WEATHER], instructions="Be short.")
    status, _, response = post(gateway, "responses", key, body)
    assert (status, response["output"][0]["content"][0]["text"]) == (200, "so")

    def call(name: str, arguments: str) -> dict[str, Any]:
        function = {"name": "weather", "arguments": arguments}
        return {"id": name, "type": "function", "function": function}

    chat = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "how is it in Ulm?"},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [call("c1", '{"a": 1}'), call("c2", "{}")],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "tool", "tool_call_id": "c2", "content": "sun"},
        *say("so"),
    ]
    function = {name: WEATHER[name] for name in ("name", "description", "parameters")}
    tools = [{"type": "function", "function": function}]
    assert engine.requests[-1].prompt_ids == appliance.template.encode(chat, tools)
    (turn,) = appliance.turns(response["id"])
    assert list(turn.messages) == chat
    assert list(turn.tools) == tools


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no input": ({"input": []}, "input"),
    "a stored conversation": ({"previous_response_id": "resp-1"}, "previous_response_id"),
    "in the background": ({"background": True}, "background"),
    "an item of another kind": ({"input": [{"type": "reasoning"}]}, "input"),
    "a picture": (
        {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        "input",
    ),
    "a call without a name": ({"input": [{"type": "function_call", "call_id": "c"}]}, "input"),
    "role no text": ({"input": [{"role": {}, "content": "x"}]}, "input"),
    "role unknown": ({"input": [{"role": "wizard", "content": "x"}]}, "input"),
    "a server's tool": ({"tools": [{"type": "web_search"}]}, "tools"),
    "a forced tool, and none there": ({"tool_choice": "required"}, "tool_choice"),
    "thinking": ({"reasoning": {"effort": "high"}}, "reasoning"),
    "cut short": ({"truncation": "auto"}, "truncation"),
    "include": ({"include": ["file_search_call.results"]}, "include"),
    "top_logprobs alone": ({"top_logprobs": 2}, "top_logprobs"),
    "nested too deeply": ({"input": [json.loads('{"a":' * 400 + "1" + "}" * 400)]}, "input"),
    "too long": ({"input": "x" * 3000}, "input"),
    "model": ({"model": "gpt"}, "model"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_names_the_parameter(gateway: GatewayProcess, key: str, case: str) -> None:
    change, param = BAD[case]
    status, _, body = post(gateway, "responses", key, {**ask("x"), **change})
    assert (status, body["error"]["param"]) == (404 if case == "model" else 400, param)
    assert body["error"]["type"] == "invalid_request_error"


def test_leaving_stops_the_engine_and_is_logged(
    client: openai.OpenAI, engine: EngineSimulator, appliance: Appliance
) -> None:
    before = engine.left_early
    with client.responses.create(
        model=ALIAS, input=say("long " * 200, 0.005)[0]["content"], stream=True
    ) as stream:
        response_id = next(iter(stream)).response.id
    wait_until(lambda: engine.left_early == before + 1)
    wait_until(lambda: appliance.turns(response_id))
    (turn,) = appliance.turns(response_id)
    assert turn.finish_reason == "error"
    assert ("long " * 200).startswith(turn.answer["content"])
