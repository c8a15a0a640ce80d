"""Answers under a JSON schema: judged before, handed to the engine, and the answer checked."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest

from serving import structured
from serving.openai_errors import ApiError
from serving.structured import (
    SCHEMA_MAX_BYTES,
    require_callable,
    require_possible,
    require_schema_met,
)
from tests.serving.conftest import ALIAS, Appliance, GatewayProcess, say
from tests.serving.engine_simulator import EngineSimulator
from tests.serving.raw import events, post

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "level": {"type": "number"}},
    "required": ["city", "level"],
    "additionalProperties": False,
}
ULM = '{"city": "Ulm", "level": 4.5}'
ROUTES = ("chat/completions", "responses", "messages")


@pytest.fixture(scope="module")
def key(client: openai.OpenAI) -> str:
    return str(client.api_key)


def ask(route: str, text: str, schema: Any, **more: Any) -> dict[str, Any]:
    """A request in each protocol for an answer that meets the schema."""
    messages = say(text)
    if route == "responses":
        wanted = {"type": "json_schema", "name": "city", "schema": schema, "strict": True}
        prompt = messages[0]["content"]
        return {"model": ALIAS, "input": prompt, "text": {"format": wanted}, **more}
    if route == "messages":
        config = {"format": {"type": "json_schema", "schema": schema}}
        most = {"max_tokens": 200, **more}
        return {"model": ALIAS, "messages": messages, "output_config": config, **most}
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
    return {"model": ALIAS, "messages": messages, "response_format": wanted, **more}


def text_of(route: str, answer: dict[str, Any]) -> str:
    if route == "responses":
        return str(answer["output"][0]["content"][0]["text"])
    if route == "messages":
        return str(answer["content"][0]["text"])
    return str(answer["choices"][0]["message"]["content"])


@pytest.mark.parametrize("route", ROUTES)
def test_the_schema_reaches_the_engine(
    gateway: GatewayProcess, key: str, engine: EngineSimulator, route: str
) -> None:
    status, _, answer = post(gateway, route, key, ask(route, ULM, CITY))
    assert (status, text_of(route, answer)) == (200, ULM)
    assert json.loads(engine.requests[-1].json_schema) == CITY


def test_any_object_where_only_json_is_asked_for(
    gateway: GatewayProcess, key: str, engine: EngineSimulator
) -> None:
    body = {"model": ALIAS, "messages": say("{}"), "response_format": {"type": "json_object"}}
    assert post(gateway, "chat/completions", key, body)[0] == 200
    assert json.loads(engine.requests[-1].json_schema) == {"type": "object"}
    form = {"text": {"format": {"type": "json_object"}}}
    body = {"model": ALIAS, "input": say("{}")[0]["content"], **form}
    assert post(gateway, "responses", key, body)[0] == 200


@pytest.mark.parametrize("wanted", [None, {"type": "text"}])
def test_text_asks_for_no_schema(
    gateway: GatewayProcess, key: str, engine: EngineSimulator, wanted: Any
) -> None:
    body = {"model": ALIAS, "messages": say("not json"), "response_format": wanted}
    assert post(gateway, "chat/completions", key, body)[0] == 200
    assert engine.requests[-1].json_schema == ""


REFUSED: dict[str, tuple[Any, str]] = {
    "nothing meets it": ({"type": "integer", "minimum": 5, "maximum": 3}, "Unsatisfiable"),
    "two types at once": ({"allOf": [{"type": "string"}, {"type": "null"}]}, "Unsatisfiable"),
    "false": (False, "JSON object"),
    "no schema": ({"type": "strnig"}, "strnig"),
    "not an object": ("object", "JSON object"),
    "missing": (None, "JSON object"),
    "elsewhere": ({"$ref": "http://example.org/schema.json"}, "no answer"),
    "a broken pattern": ({"type": "string", "pattern": "("}, "no answer"),
    "a word that engines do not know": ({"not": {"type": "string"}}, "not"),
    "too hard": (
        {"allOf": [{"type": "string", "pattern": f".*{n}.*"} for n in range(30)]},
        "to compile",
    ),
    "only itself": ({"$ref": "#"}, "refers to itself without an end"),
    "a dialect of its own inside": (
        {
            "type": "object",
            "properties": {"a": {"$schema": "https://json-schema.org/draft/2020-12/schema"}},
        },
        "$schema may stand at its top only",
    ),
    "too large": ({"enum": ["x" * SCHEMA_MAX_BYTES]}, "64 KiB"),
    "too deep": (json.loads('{"not":' * 300 + "{}" + "}" * 300), "nested"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("route", ROUTES)
def test_a_schema_that_cannot_be_met_is_a_400(
    gateway: GatewayProcess, key: str, engine: EngineSimulator, route: str, case: str
) -> None:
    schema, word = REFUSED[case]
    before = len(engine.requests)
    status, _, body = post(gateway, route, key, ask(route, ULM, schema))
    assert status == 400
    assert word in body["error"]["message"]
    assert len(engine.requests) == before, "nothing was sampled"


def test_a_format_of_another_kind_is_a_400(gateway: GatewayProcess, key: str) -> None:
    for form in ({"type": "grammar"}, {"type": 3}, {"type": "json_schema", "json_schema": 3}):
        body = {"model": ALIAS, "messages": say("x"), "response_format": form}
        status, _, answer = post(gateway, "chat/completions", key, body)
        assert (status, answer["error"]["param"]) == (400, "response_format")


@pytest.mark.parametrize("route", ROUTES)
def test_an_answer_that_ended_by_length_says_so(
    gateway: GatewayProcess, key: str, route: str
) -> None:
    limit = {"responses": "max_output_tokens"}.get(route, "max_tokens")
    status, _, answer = post(gateway, route, key, ask(route, ULM, CITY, **{limit: 5}))
    assert (status, text_of(route, answer)) == (200, ULM[:5])
    said = {
        "responses": lambda: answer["incomplete_details"]["reason"] == "max_output_tokens",
        "messages": lambda: answer["stop_reason"] == "max_tokens",
        "chat/completions": lambda: answer["choices"][0]["finish_reason"] == "length",
    }
    assert said[route]()


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("text", ["not json", '{"city": "Ulm"}'])
def test_an_engine_that_does_not_keep_to_it_is_found_out(
    gateway: GatewayProcess, key: str, appliance: Appliance, route: str, text: str
) -> None:
    status, _, answer = post(gateway, route, key, ask(route, text, CITY))
    assert status == 500
    assert "does not meet the schema" in answer["error"]["message"]
    first, *_, (_, last) = events(gateway, route, key, ask(route, text, CITY))
    assert "does not meet the schema" in str(last)
    name = first[1].get("id") or first[1].get("response", first[1].get("message"))["id"]
    (turn,) = appliance.turns(name)
    assert (turn.finish_reason, turn.answer["content"]) == ("error", text)


@pytest.mark.parametrize("route", ROUTES[:2])
def test_a_schema_without_an_end_is_a_bad_schema(
    gateway: GatewayProcess, key: str, route: str
) -> None:
    _, _, body = post(gateway, route, key, ask(route, ULM, {"$ref": "#"}))
    error = body["error"]
    param = "text" if route == "responses" else "response_format"
    assert error["code"] == "bad_schema"
    assert error["param"].startswith(param)
    assert "\n" not in error["message"]


DOUBLING = {
    "$defs": {
        "a26": {"type": "number"},
        **{f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(26)},
    },
    "anyOf": [{"$ref": "#/$defs/a0"}, {"type": "string"}],
}
NESTED = {
    "$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}},
    "$ref": "#/$defs/n",
}
DIALECT = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": ["array", "string"],
    "items": {"$ref": "#"},
    "pattern": "^(((a+)+c|(a+)+)b)$",
}
PASSES: dict[str, tuple[Any, str, bool]] = {
    "checked": (CITY, ULM, True),
    "a pattern is the engine's business": (
        {"type": "string", "pattern": "^(a+)+$"},
        json.dumps("a" * 60 + "!"),
        True,
    ),
    "also where a dialect is named": (DIALECT, json.dumps(["a" * 60]), True),
    "for ever": (DOUBLING, '"x"', False),
    "nested deeper than Python": (NESTED, "[" * 5000 + "]" * 5000, False),
    "larger than a float": ({"type": "number", "multipleOf": 0.1}, "1e400", False),
    "longer than Python counts": ({"type": "integer"}, "1" * 5000, False),
}


@pytest.mark.parametrize("case", PASSES)
def test_a_check_never_holds_the_gateway_up(case: str, caplog: pytest.LogCaptureFixture) -> None:
    schema, answer, checked = PASSES[case]
    text = json.dumps(schema)
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.01)
            beats += 1

    async def check() -> float:
        await require_possible(text, "response_format", key_id=case)
        beating = asyncio.create_task(beat())
        begun = time.monotonic()
        await require_schema_met(text, [answer], key_id=case)
        beating.cancel()
        return time.monotonic() - begun

    # The first job of a judge waits for its start.
    warm_up(1)
    with caplog.at_level(logging.WARNING, "espalier.schema"):
        took = asyncio.run(check())
    assert took < 10
    assert beats >= int(took * 10), "the event loop went on"
    assert ("not checked" in caplog.text) is not checked


def warm_up(tries: int) -> None:
    """Check until there is a verdict: on a busy machine a judge takes a while to start."""
    end = time.monotonic() + 30
    while tries and time.monotonic() < end:
        try:
            answers = [ULM, '{"city": "Ulm"}']
            asyncio.run(require_schema_met(json.dumps(CITY), answers, key_id=f"warm-{tries}"))
        except ApiError:
            tries -= 1
    assert not tries


def test_answers_are_checked_again_after_one_that_took_for_ever() -> None:
    asyncio.run(require_schema_met(json.dumps(DOUBLING), ['"x"'], key_id="long"))
    warm_up(4)


def test_a_schema_that_was_not_judged_in_time_is_judged_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = json.dumps({**CITY, "title": "judged twice"})

    def busy(*_: Any) -> str:
        raise structured._NoVerdict

    with monkeypatch.context() as patch:
        patch.setattr(structured, "_judge", busy)
        with pytest.raises(ApiError, match="to compile"):
            asyncio.run(require_possible(text, "response_format", key_id="k"))
    asyncio.run(require_possible(text, "response_format", key_id="k"))


JUDGED: dict[str, Callable[[str, str], Awaitable[None]]] = {
    "a schema": lambda text, key_id: require_possible(text, "text", key_id=key_id),
    "calls": lambda text, key_id: require_callable(text, key_id=key_id),
    "answers": lambda text, key_id: require_schema_met(text, [ULM], key_id=key_id),
}


@pytest.mark.parametrize("leaving", [False, True], ids=["waiting", "leaving"])
@pytest.mark.parametrize("kind", JUDGED)
def test_no_key_has_the_judges_to_itself(
    monkeypatch: pytest.MonkeyPatch, kind: str, leaving: bool
) -> None:
    """One key asks for what takes for ever, again and again, and may leave each time."""
    judge, done = JUDGED[kind], threading.Event()
    under_way, most = 0, 0

    def slow(_: str, text: str | list[str], *__: Any) -> str:
        nonlocal under_way, most
        if "hard" in text:
            under_way += 1
            most = max(most, under_way)
            done.wait(20)
            under_way -= 1
        return ""

    monkeypatch.setattr(structured, "_judge", slow)

    async def flood() -> None:
        name = f"{kind} {leaving}"
        tasks = [asyncio.create_task(judge(f"{name} hard {n}", name)) for n in range(8)]
        for task in tasks:
            await asyncio.sleep(0.01)
            if leaving:
                task.cancel()
        await asyncio.wait_for(judge(f"{name} easy", "polite"), 10)
        done.set()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert leaving or ends == [None] * 8

    asyncio.run(flood())
    assert most == 1


def test_tools_above_64_kib_are_not_forced() -> None:
    with pytest.raises(ApiError, match="64 KiB"):
        asyncio.run(require_callable("x" * (SCHEMA_MAX_BYTES + 1), key_id="k"))


def test_a_stop_string_may_cut_the_json(gateway: GatewayProcess, key: str) -> None:
    body = ask("chat/completions", ULM, CITY, stop=["Ulm"])
    status, _, answer = post(gateway, "chat/completions", key, body)
    assert (status, text_of("chat/completions", answer)) == (200, '{"city": "')


def test_stop_strings_are_handed_on(client: openai.OpenAI, engine: EngineSimulator) -> None:
    client.chat.completions.create(model=ALIAS, messages=say("x"), stop=["END", "\n\n"])
    assert engine.requests[-1].stops == ["END", "\n\n"]


@pytest.mark.parametrize("stream", [False, True])
def test_token_ids_where_they_are_asked_for(
    gateway: GatewayProcess, key: str, appliance: Appliance, stream: bool
) -> None:
    prompt = appliance.template.encode(say("grün"))
    ids = [*appliance.template.encode_text("grün"), appliance.template.stop_ids[0]]
    body = {"model": ALIAS, "messages": say("grün"), "return_token_ids": True}
    if stream:
        chunks = [data for _, data in events(gateway, "chat/completions", key, body)[:-1]]
        assert [chunk.get("prompt_token_ids") for chunk in chunks] == [
            prompt,
            *[None] * (len(chunks) - 1),
        ]
        got = [i for chunk in chunks for i in chunk["choices"][0].get("token_ids", [])]
    else:
        _, _, answer = post(gateway, "chat/completions", key, body)
        assert answer["prompt_token_ids"] == prompt
        got = answer["choices"][0]["token_ids"]
    assert got == ids


def test_token_ids_of_a_completion(gateway: GatewayProcess, key: str, appliance: Appliance) -> None:
    prompt = appliance.template.encode_text(say("ab")[0]["content"])
    body = {"model": ALIAS, "prompt": prompt, "return_token_ids": True}
    _, _, answer = post(gateway, "completions", key, body)
    ids = [*appliance.template.encode_text("ab"), appliance.template.stop_ids[0]]
    assert answer["choices"][0]["token_ids"] == ids
    assert answer["choices"][0]["prompt_token_ids"] == prompt
    chunks = [data for _, data in events(gateway, "completions", key, body)[:-1]]
    assert [i for chunk in chunks for i in chunk["choices"][0].get("token_ids", [])] == ids


def test_token_ids_are_not_there_unasked(gateway: GatewayProcess, key: str) -> None:
    for route in ROUTES:
        body = ask(route, ULM, CITY)
        assert "token_ids" not in str(post(gateway, route, key, body)[2])
        assert "token_ids" not in str(events(gateway, route, key, body))
