"""An engine that dies: before the first byte it is asked again, after it everybody is told."""

from typing import Any

import openai
import pytest

from appliance.core.records import Turn
from tests.serving.conftest import ALIAS, Appliance, GatewayProcess, say
from tests.serving.engine_simulator import EngineSimulator
from tests.serving.raw import events, post

PROTOCOLS = ("chat/completions", "completions", "responses", "messages")


@pytest.fixture(scope="module")
def key(client: openai.OpenAI) -> str:
    return str(client.api_key)


def ask(route: str, text: str, **script: Any) -> dict[str, Any]:
    messages = say(text, **script)
    prompt = messages[0]["content"]
    return {
        "chat/completions": {"model": ALIAS, "messages": messages},
        "completions": {"model": ALIAS, "prompt": prompt, "max_tokens": 100},
        "responses": {"model": ALIAS, "input": prompt},
        "messages": {"model": ALIAS, "messages": messages, "max_tokens": 100},
    }[route]


def text_of(route: str, answer: dict[str, Any]) -> str:
    if route == "responses":
        return str(answer["output"][0]["content"][0]["text"])
    if route == "messages":
        return str(answer["content"][0]["text"])
    choice = answer["choices"][0]
    return str(choice["text"] if route == "completions" else choice["message"]["content"])


def logged(appliance: Appliance, text: str) -> list[Turn]:
    """The turns whose prompt asked for this text."""
    found = [appliance.turns(event.record["turn_id"]) for event in appliance.events()
             if event.kind == "turn" and text in str(event.record["messages"])]  # fmt: skip
    return [turn for turns in found for turn in turns]


@pytest.mark.parametrize("route", PROTOCOLS)
@pytest.mark.parametrize("dies_after", [0, 3])
def test_what_nobody_has_seen_is_begun_again_once(
    gateway: GatewayProcess, key: str, engine: EngineSimulator, route: str, dies_after: int
) -> None:
    before = len(engine.requests)
    body = ask(route, f"{route} {dies_after}", dies_after=dies_after, deaths=1)
    status, _, answer = post(gateway, route, key, body)
    assert (status, text_of(route, answer)) == (200, f"{route} {dies_after}")
    assert len(engine.requests) == before + 2


@pytest.mark.parametrize("route", PROTOCOLS)
def test_a_stream_that_has_not_begun_is_begun_again_once(
    gateway: GatewayProcess, key: str, engine: EngineSimulator, route: str
) -> None:
    before = len(engine.requests)
    body = ask(route, f"stream {route}", dies_after=0, deaths=1)
    *_, (name, last) = events(gateway, route, key, body)
    end = {"responses": "response.completed", "messages": "message_stop"}
    assert name == end[route] if route in end else last == "[DONE]"
    assert len(engine.requests) == before + 2


@pytest.mark.parametrize("route", PROTOCOLS)
def test_an_engine_that_stays_dead_is_a_503(
    gateway: GatewayProcess, key: str, engine: EngineSimulator, appliance: Appliance, route: str
) -> None:
    before = len(engine.requests)
    status, headers, body = post(gateway, route, key, ask(route, f"dead {route}", dies_after=2))
    assert (status, headers["retry-after"]) == (503, "1")
    kind = "overloaded_error" if route == "messages" else "service_unavailable"
    assert body["error"]["type"] == kind
    assert "the replica died" in body["error"]["message"]
    assert len(engine.requests) == before + 2
    assert logged(appliance, f"dead {route}") == []


@pytest.mark.parametrize("route", PROTOCOLS)
def test_in_mid_stream_the_client_is_told_and_the_turn_says_so(
    gateway: GatewayProcess, key: str, engine: EngineSimulator, appliance: Appliance, route: str
) -> None:
    before = len(engine.requests)
    body = ask(route, f"abcdef {route}", dies_after=4, deaths=1)
    *_, (name, last) = events(gateway, route, key, body)
    if route == "messages":
        assert (name, last["type"]) == ("error", "error")
        assert last["error"]["type"] == "overloaded_error"
    elif route == "responses":
        assert (name, last["response"]["status"]) == ("response.failed", "failed")
        assert last["response"]["error"]["code"] == "server_error"
        (item,) = last["response"]["output"]
        assert (item["status"], item["content"][0]["text"]) == ("incomplete", "abcd")
    else:
        assert last["error"]["type"] == "service_unavailable", "and no [DONE]"
    assert len(engine.requests) == before + 1, "what was seen is not begun again"
    (turn,) = logged(appliance, f"abcdef {route}")
    assert turn.finish_reason == "error"
    assert turn.answer == {"role": "assistant", "content": "abcd"}
    assert turn.answer_ids is not None
    assert turn.answer_ids.count == 4


def test_clients_raise_what_they_are_told_in_mid_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=ALIAS, messages=say("abcdef", dies_after=3), stream=True
    )
    with pytest.raises(openai.APIError, match="the replica died"):
        list(stream)


def test_an_engine_that_is_killed_in_mid_stream_is_told_as_well(
    client: openai.OpenAI, gateway: GatewayProcess, engine: EngineSimulator, appliance: Appliance
) -> None:
    stream = client.chat.completions.create(
        model=ALIAS, messages=say("killed " * 100, 0.01), stream=True
    )
    next(iter(stream))
    engine.stop()
    with pytest.raises(openai.APIError, match="engine"):
        list(stream)
    engine.start()
    assert client.chat.completions.create(model=ALIAS, messages=say("back")).id
    (turn,) = logged(appliance, "killed killed")
    assert turn.finish_reason == "error"
    assert turn.answer["content"].startswith("killed"[:1])
