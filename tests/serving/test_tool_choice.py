"""Calls that are asked for, and no more of them than were asked for, in every protocol."""

from collections.abc import Callable
from typing import Any

import openai
import pytest
from llguidance import LLMatcher, LLTokenizer

from appliance.engine.tool_calls import CALL_END
from tests.serving.conftest import ALIAS, Appliance, GatewayProcess, say
from tests.serving.engine_simulator import EngineSimulator
from tests.serving.raw import events, post

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Ulm", "Bonn"]}},
    "required": ["city"],
    "additionalProperties": False,
}
ULM, BONN = (
    f'<tool_call>\n{{"name": "{name}", "arguments": {{"city": "{city}"}}}}\n</tool_call>'
    for name, city in (("weather", "Ulm"), ("gauge", "Bonn"))
)
ROUTES = ("chat/completions", "responses", "messages")
_BYTES = LLTokenizer("byte")


@pytest.fixture(scope="module")
def key(client: openai.OpenAI) -> str:
    return str(client.api_key)


def ask(
    route: str,
    text: str,
    choice: str,
    *,
    parallel: bool = True,
    names: tuple[str, ...] = ("weather", "gauge"),
    schema: Any = SCHEMA,
) -> dict[str, Any]:
    """A request in each protocol; `choice` is auto, required or the name of a tool."""
    body: dict[str, Any] = {"model": ALIAS, "messages": say(text)}
    said: Any = choice
    if route == "messages":
        body |= {"max_tokens": 400, "tools": [{"name": n, "input_schema": schema} for n in names]}
        kinds = {"auto": {"type": "auto"}, "required": {"type": "any"}}
        said = kinds.get(choice, {"type": "tool", "name": choice})
        one = {} if parallel else {"disable_parallel_tool_use": True}
        return {**body, "tool_choice": {**said, **one}}
    functions = [{"name": name, "parameters": schema} for name in names]
    if route == "responses":
        body = {"model": ALIAS, "input": say(text)[0]["content"]}
        body["tools"] = [{"type": "function", **function} for function in functions]
        said = choice if choice in ("auto", "required") else {"type": "function", "name": choice}
    else:
        body["tools"] = [{"type": "function", "function": function} for function in functions]
        if choice not in ("auto", "required"):
            said = {"type": "function", "function": {"name": choice}}
    return {**body, "tool_choice": said, "parallel_tool_calls": parallel}


def calls_of(route: str, answer: dict[str, Any]) -> list[str]:
    """The names of the tools that an answer calls."""
    if route == "responses":
        return [item["name"] for item in answer["output"] if item["type"] == "function_call"]
    if route == "messages":
        return [block["name"] for block in answer["content"] if block["type"] == "tool_use"]
    calls = answer["choices"][0]["message"].get("tool_calls") or []
    return [call["function"]["name"] for call in calls]


def keeps(grammar: str, text: str) -> bool:
    matcher = LLMatcher(_BYTES, LLMatcher.grammar_from_lark(grammar), log_level=0)
    spelled = list(text.encode())
    return matcher.try_consume_tokens(spelled) == len(spelled) and matcher.is_accepting()


FORCED: dict[str, tuple[str, bool, list[bool]]] = {
    # Whether the engine may write: text, one call, the other tool's call, two calls.
    "any": ("required", True, [False, True, True, True]),
    "any, once": ("required", False, [False, True, True, False]),
    "by name": ("weather", True, [False, True, False, False]),
    "by name, once": ("weather", False, [False, True, False, False]),
}


@pytest.mark.parametrize("case", FORCED)
@pytest.mark.parametrize("route", ROUTES)
def test_a_call_that_is_asked_for_is_all_that_the_engine_may_write(
    gateway: GatewayProcess, key: str, engine: EngineSimulator, route: str, case: str
) -> None:
    choice, parallel, may = FORCED[case]
    status, _, answer = post(gateway, route, key, ask(route, ULM, choice, parallel=parallel))
    assert (status, calls_of(route, answer)) == (200, ["weather"])
    asked = engine.requests[-1]
    written = ["It rains.", ULM, BONN, f"{ULM}\n{BONN}"]
    assert [keeps(asked.grammar, text) for text in written] == may
    assert CALL_END not in asked.stops, "the turn's end is sampled, too"


@pytest.mark.parametrize("route", ROUTES)
def test_a_call_that_is_not_asked_for_leaves_the_engine_free(
    gateway: GatewayProcess, key: str, engine: EngineSimulator, route: str
) -> None:
    _, _, answer = post(gateway, route, key, ask(route, f"{ULM}\n{BONN}", "auto"))
    assert calls_of(route, answer) == ["weather", "gauge"]
    assert (engine.requests[-1].grammar, engine.requests[-1].stops) == ("", [])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", ROUTES)
def test_an_answer_ends_with_its_first_call_where_one_is_allowed(
    gateway: GatewayProcess,
    key: str,
    engine: EngineSimulator,
    appliance: Appliance,
    route: str,
    stream: bool,
) -> None:
    body = ask(route, f"I look.\n{ULM}\n{BONN}", "auto", parallel=False)
    if stream:
        found = events(gateway, route, key, body)
        assert "weather" in str(found)
        assert "gauge" not in str([data for _, data in found if "tools" not in str(data)])
        first = found[0][1]
        name = first.get("id") or first.get("response", first.get("message"))["id"]
    else:
        _, _, answer = post(gateway, route, key, body)
        assert calls_of(route, answer) == ["weather"]
        name = answer["id"]
        if route == "responses":
            assert answer["parallel_tool_calls"] is False
    (turn,) = appliance.turns(name)
    assert turn.finish_reason == "tool_calls"
    assert turn.answer["content"] == "I look."
    assert len(turn.answer["tool_calls"]) == 1
    # What is logged is what was sampled: the token that ends the call is the last.
    assert turn.answer_ids.count == len(appliance.template.encode_text(f"I look.\n{ULM}"))


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("route", ROUTES)
def test_a_calls_tag_in_one_of_its_strings_ends_nothing(
    gateway: GatewayProcess, key: str, route: str, choice: str
) -> None:
    tagged = ULM.replace("Ulm", f"{CALL_END} Ulm")
    # An engine ends a forced call by itself.
    text = tagged if choice == "required" else f"{tagged}\n{BONN}"
    status, _, answer = post(gateway, route, key, ask(route, text, choice, parallel=False))
    assert (status, calls_of(route, answer)) == (200, ["weather"])
    assert f"{CALL_END} Ulm" in str(answer)


@pytest.mark.parametrize("route", ["chat/completions", "messages"])
def test_a_clients_stops_do_not_cut_a_forced_call(
    gateway: GatewayProcess, key: str, engine: EngineSimulator, route: str
) -> None:
    name = "stop_sequences" if route == "messages" else "stop"
    body = {**ask(route, ULM, "required"), name: ["\n"]}
    status, _, answer = post(gateway, route, key, body)
    assert (status, calls_of(route, answer)) == (200, ["weather"])
    assert engine.requests[-1].stops == []


@pytest.mark.parametrize("route", ROUTES)
def test_a_forced_answer_that_is_no_call_is_an_error_of_ours(
    gateway: GatewayProcess, key: str, route: str
) -> None:
    status, _, answer = post(gateway, route, key, ask(route, "It rains.", "required"))
    assert status == 500
    assert "no tool call that can be read" in str(answer)


BAD: dict[str, tuple[Callable[[str], dict[str, Any]], str]] = {
    "another tool": (lambda route: ask(route, "x", "radar"), "no tool 'radar'"),
    "two of one name": (
        lambda route: ask(route, "x", "required", names=("weather", "weather")),
        "the same name",
    ),
    "no tool": (lambda route: ask(route, "x", "required", names=()), "no tool at all"),
    "a choice of another kind": (
        lambda route: {**ask(route, "x", "auto"), "tool_choice": {"type": "allowed_tools"}},
        "nothing else is supported here",
    ),
    "a tool without a name": (
        lambda route: {**ask(route, "x", "auto"), "tool_choice": NAMELESS[route]},
        "expected the name of a tool",
    ),
    "a schema that nothing meets": (
        lambda route: ask(
            route, "x", "required",
            schema={"properties": {"n": {"type": "integer", "minimum": 5, "maximum": 3}},
                    "required": ["n"]},
        ),
        "calls of these tools",
    ),
    "a schema that names another": (
        lambda route: ask(route, "x", "weather", schema={"$ref": "http://example.org/s.json"}),
        "calls of these tools",
    ),
    "a schema without an end": (
        lambda route: ask(
            route, "x", "weather", schema={"properties": {"a": {"$ref": "#"}}, "required": ["a"]}
        ),
        "without an end",
    ),
}  # fmt: skip
NAMELESS: dict[str, Any] = {
    "chat/completions": {"type": "function", "function": {}},
    "responses": {"type": "function"},
    "messages": {"type": "tool"},
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("route", ROUTES)
def test_a_call_that_cannot_be_made_is_a_400(
    gateway: GatewayProcess, key: str, engine: EngineSimulator, route: str, case: str
) -> None:
    make, words = BAD[case]
    before = len(engine.requests)
    status, _, body = post(gateway, route, key, make(route))
    assert status == 400
    assert words in body["error"]["message"]
    assert "\n" not in body["error"]["message"]
    assert len(engine.requests) == before, "nothing was sampled"
