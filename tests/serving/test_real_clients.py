"""The real `openai` and `anthropic` clients, unmodified, against a real gateway process.

Over the simulator, where each word is known, and over the embedded engine with the tiny base,
where the protocol is what is looked at.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anthropic
import openai
import pytest
from pydantic import BaseModel

from tests.services.tiny import bring_tiny
from tests.serving.conftest import (
    ALIAS,
    Appliance,
    GatewayProcess,
    say,
    wait_for_key,
)
from tests.serving.embedded import embedded_engine

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CALL = 'I look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Ulm"}}\n</tool_call>'


class Verdict(BaseModel):
    """A schema that even a tiny model meets in a few tokens."""

    good: bool
    colour: Literal["red", "green"]


VERDICT = '{"good": true, "colour": "green"}'


@dataclass
class House:
    """A gateway over an engine, a client of each kind, and what it logs."""

    scripted: bool
    appliance: Appliance
    openai: openai.OpenAI
    anthropic: anthropic.Anthropic

    def says(self, text: str) -> list[dict[str, str]]:
        """Messages that make the simulator say this; a model says what it likes."""
        return say(text) if self.scripted else [{"role": "user", "content": "count eggs"}]

    def heard(self, text: str | None, expected: str) -> None:
        """What came is what was to be said, where that is known."""
        assert text == expected if self.scripted else text is not None

    def logged(self, name: str) -> Any:
        """The one turn of a request."""
        (turn,) = self.appliance.turns(name)
        return turn


@pytest.fixture(scope="module", params=["simulator", "embedded"])
def house(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    if request.param == "simulator":
        appliance = request.getfixturevalue("appliance")
        request.getfixturevalue("engine")
        gateway = request.getfixturevalue("gateway")
        yield from _furnished(appliance, gateway, scripted=True)
        return
    scratch: Path = tmp_path_factory.mktemp("embedded")
    with embedded_engine(bring_tiny(), "tiny", scratch) as appliance:
        gateway = GatewayProcess(appliance)
        gateway.start()
        yield from _furnished(appliance, gateway, scripted=False)
        assert gateway.stop() == 0, gateway.log


def _furnished(appliance: Appliance, gateway: GatewayProcess, *, scripted: bool) -> Iterator[House]:
    secret, _ = appliance.add_key()
    wait_for_key(gateway, secret)
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=secret, max_retries=0) as one,
        anthropic.Anthropic(base_url=gateway.url, api_key=secret, max_retries=0) as other,
    ):
        yield House(scripted, appliance, one, other)


def test_chat(house: House) -> None:
    answer = house.openai.chat.completions.create(
        model=ALIAS, messages=house.says("hello"), max_tokens=40
    )
    house.heard(answer.choices[0].message.content, "hello")
    turn = house.logged(answer.id)
    assert turn.answer_ids.count == turn.logprobs.count == answer.usage.completion_tokens


def test_chat_streamed(house: House) -> None:
    with house.openai.chat.completions.stream(
        model=ALIAS, messages=house.says("hello"), max_tokens=40
    ) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    house.heard("".join(pieces), "hello")
    assert final.choices[0].message.content == "".join(pieces)
    assert final.choices[0].finish_reason in ("stop", "length")


def test_chat_with_tools_and_back(house: House) -> None:
    function = {"name": "weather", "description": "Of a city.", "parameters": PARAMETERS}
    request: dict[str, Any] = {
        "model": ALIAS,
        "max_tokens": 120,
        "tools": [{"type": "function", "function": function}],
    }
    messages: list[Any] = house.says(CALL)
    message = house.openai.chat.completions.create(**request, messages=messages).choices[0].message
    house.heard(message.content or "", "I look.")
    messages.append(message)
    for call in message.tool_calls or []:
        json.loads(call.function.arguments)
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "rain"})
    assert not house.scripted or len(messages) == 3
    messages += house.says("it rains")
    answer = house.openai.chat.completions.create(**request, messages=messages)
    house.heard(answer.choices[0].message.content or "", "it rains")


CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Ulm", "Bonn"]}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
def test_chat_with_a_tool_that_has_to_be_called(house: House, choice: Any) -> None:
    """Also by a model that would never have called one."""
    text = '<tool_call>\n{"name": "f", "arguments": {"city": "Ulm"}}\n</tool_call>'
    answer = house.openai.chat.completions.create(
        model=ALIAS,
        messages=house.says(text),
        tools=[{"type": "function", "function": {"name": "f", "parameters": CITY}}],
        tool_choice=choice,
        parallel_tool_calls=False,
        max_tokens=200,
    )
    (choice,) = answer.choices
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert json.loads(call.function.arguments)["city"] in ("Ulm", "Bonn")
    assert house.logged(answer.id).answer_ids.count == answer.usage.completion_tokens


def test_a_message_with_a_tool_that_has_to_be_called(house: House) -> None:
    text = '<tool_call>\n{"name": "f", "arguments": {"city": "Ulm"}}\n</tool_call>'
    with house.anthropic.messages.stream(
        model=ALIAS,
        max_tokens=200,
        messages=house.says(text),
        tools=[{"name": "f", "input_schema": CITY}],
        tool_choice={"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    ) as stream:
        message = stream.get_final_message()
    (block,) = message.content
    assert (message.stop_reason, block.type, block.name) == ("tool_use", "tool_use", "f")
    assert block.input["city"] in ("Ulm", "Bonn")


def test_chat_parsed(house: House) -> None:
    answer = house.openai.chat.completions.parse(
        model=ALIAS, messages=house.says(VERDICT), response_format=Verdict, max_tokens=100
    )
    assert isinstance(answer.choices[0].message.parsed, Verdict)
    assert house.logged(answer.id).answer["content"] == answer.choices[0].message.content


def test_completions(house: House) -> None:
    prompt = house.says("plain")[0]["content"]
    answer = house.openai.completions.create(model=ALIAS, prompt=prompt, max_tokens=20)
    house.heard(answer.choices[0].text, "plain")


def test_responses(house: House) -> None:
    asked: Any = house.says("hello")
    response = house.openai.responses.create(model=ALIAS, input=asked, max_output_tokens=40)
    house.heard(response.output_text, "hello")
    assert house.logged(response.id).answer["content"] == response.output_text


def test_responses_streamed(house: House) -> None:
    asked: Any = house.says("hello")
    with house.openai.responses.stream(model=ALIAS, input=asked, max_output_tokens=400) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    house.heard(final.output_text, "hello")
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert "response.output_text.delta" in kinds


def test_responses_with_tools_and_back(house: House) -> None:
    tools: Any = [
        {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": False}
    ]
    items: list[Any] = house.says(CALL)
    response = house.openai.responses.create(
        model=ALIAS, input=items, tools=tools, max_output_tokens=120
    )
    items += response.output
    calls = [item for item in response.output if item.type == "function_call"]
    for call in calls:
        items.append({"type": "function_call_output", "call_id": call.call_id, "output": "rain"})
    assert not house.scripted or len(calls) == 1
    items += house.says("it rains")
    again = house.openai.responses.create(
        model=ALIAS, input=items, tools=tools, max_output_tokens=120
    )
    house.heard(again.output_text, "it rains")


def test_responses_parsed(house: House) -> None:
    asked: Any = house.says(VERDICT)
    response = house.openai.responses.parse(
        model=ALIAS, input=asked, text_format=Verdict, max_output_tokens=100
    )
    assert isinstance(response.output_parsed, Verdict)


def test_messages(house: House) -> None:
    asked: Any = house.says("hello")
    message = house.anthropic.messages.create(model=ALIAS, max_tokens=40, messages=asked)
    house.heard(message.content[0].text, "hello")
    assert message.stop_reason in ("end_turn", "max_tokens")
    turn = house.logged(message.id)
    assert message._request_id == message.id
    assert turn.answer_ids.count == message.usage.output_tokens


def test_messages_streamed(house: House) -> None:
    asked: Any = house.says("hello")
    with house.anthropic.messages.stream(
        model=ALIAS, max_tokens=40, messages=asked, system="Be short."
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    house.heard(text, "hello")
    assert final.content[0].text == text
    assert final.usage.output_tokens > 0


def test_messages_with_tools_and_back(house: House) -> None:
    tools: Any = [{"name": "weather", "description": "Of a city.", "input_schema": PARAMETERS}]
    messages: list[Any] = house.says(CALL)
    with house.anthropic.messages.stream(
        model=ALIAS, max_tokens=120, messages=messages, tools=tools
    ) as stream:
        first = stream.get_final_message()
    calls = [block for block in first.content if block.type == "tool_use"]
    assert not house.scripted or (first.stop_reason, calls[0].input) == (
        "tool_use",
        {"city": "Ulm"},
    )
    messages.append({"role": "assistant", "content": first.content})
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"} for call in calls]
    text = {"type": "text", "text": house.says("it rains")[0]["content"]}
    messages.append({"role": "user", "content": [*results, text]})
    again = house.anthropic.messages.create(
        model=ALIAS, max_tokens=120, messages=messages, tools=tools
    )
    house.heard("".join(b.text for b in again.content if b.type == "text"), "it rains")


def test_messages_parsed(house: House) -> None:
    asked: Any = house.says(VERDICT)
    message = house.anthropic.messages.parse(
        model=ALIAS, max_tokens=100, messages=asked, output_format=Verdict
    )
    assert isinstance(message.parsed_output, Verdict)


def test_count_tokens(house: House) -> None:
    asked: Any = house.says("hello")
    counted = house.anthropic.messages.count_tokens(model=ALIAS, messages=asked)
    assert counted.input_tokens == len(house.appliance.template.encode(asked))


def test_models_in_both_shapes(house: House) -> None:
    assert [model.id for model in house.openai.models.list()] == [ALIAS]
    (model,) = house.anthropic.models.list()
    assert (model.id, model.type, model.lifecycle) == (ALIAS, "model", "active")
    assert house.anthropic.models.retrieve(ALIAS).id == ALIAS
    with pytest.raises(anthropic.NotFoundError, match="no model"):
        house.anthropic.models.retrieve("claude")


def test_refusals_are_the_clients_own_errors(house: House) -> None:
    with pytest.raises(openai.BadRequestError, match="Unsatisfiable"):
        house.openai.responses.create(
            model=ALIAS,
            input="x",
            text={"format": {"type": "json_schema", "name": "n", "schema": {"enum": []}}},
        )
    with pytest.raises(anthropic.BadRequestError, match="thinking"):
        house.anthropic.messages.create(
            model=ALIAS,
            max_tokens=2000,
            messages=[{"role": "user", "content": "x"}],
            thinking={"type": "enabled", "budget_tokens": 1024},
        )
    with pytest.raises(anthropic.AuthenticationError):
        house.anthropic.with_options(api_key="esp-no").models.list()
