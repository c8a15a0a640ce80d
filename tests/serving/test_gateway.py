"""The public API by the real `openai` client, against the real gateway process."""

import json
import struct
import threading
from typing import Any

import openai
import pytest

from appliance.core.digests import digest_bytes
from appliance.core.records import Feedback, convert
from tests.serving.asking import wait_until
from tests.serving.conftest import ALIAS, Appliance, GatewayProcess, say
from tests.serving.engine_simulator import EngineSimulator

WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Ulm"}}\n</tool_call>'


def test_an_answer_is_what_the_engine_said(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=ALIAS, messages=say("grün 🌱"))
    assert answer.choices[0].message.content == "grün 🌱"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.system_fingerprint == "base"
    assert answer.usage.completion_tokens == len("grün 🌱".encode()) + 1
    assert answer.usage.prompt_tokens_details.cached_tokens == 3


def test_each_answer_says_which_adapter_wrote_it(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model=ALIAS, messages=say("x"))
    assert raw.headers["x-espalier-adapter"] == "base"


def test_a_stream_says_the_same_and_keeps_characters_whole(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=ALIAS,
            messages=say("grün 🌱"),
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    texts = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(texts) == "grün 🌱"
    assert not any("\ufffd" in text for text in texts)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage.total_tokens > chunks[-1].usage.completion_tokens > 0
    assert len({c.id for c in chunks}) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls_come_out_as_calls(client: openai.OpenAI, stream: bool) -> None:
    request: dict[str, Any] = {
        "model": ALIAS,
        "messages": say("I look.\n" + CALL),
        "tools": [WEATHER],
    }
    if stream:
        chunks = list(client.chat.completions.create(**request, stream=True))
        content = "".join(c.choices[0].delta.content or "" for c in chunks)
        calls = [call for c in chunks for call in c.choices[0].delta.tool_calls or []]
        finish = chunks[-1].choices[0].finish_reason
    else:
        choice = client.chat.completions.create(**request).choices[0]
        content, finish = choice.message.content, choice.finish_reason
        calls = choice.message.tool_calls
    assert (content, finish) == ("I look.", "tool_calls")
    (call,) = calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"city": "Ulm"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_broken_tool_call_is_content(client: openai.OpenAI, stream: bool) -> None:
    text = "so\n<tool_call>\n{not json}"
    answer = client.chat.completions.create(
        model=ALIAS, messages=say(text), tools=[WEATHER], stream=stream
    )
    if stream:
        assert "".join(c.choices[0].delta.content or "" for c in answer) == text
    else:
        assert answer.choices[0].message.content == text


def test_several_choices(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=ALIAS, messages=say("hi"), n=3)
    assert [choice.message.content for choice in answer.choices] == ["hi"] * 3
    assert answer.usage.completion_tokens == 9


def test_logprobs_with_alternatives(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=ALIAS, messages=say("ab"), logprobs=True, top_logprobs=2
    )
    content = answer.choices[0].logprobs.content
    assert [item.token for item in content] == ["a", "b", "<|im_end|>"]
    assert content[0].logprob == -0.25
    assert [top.logprob for top in content[0].top_logprobs] == [-0.25, -3.5]
    assert content[0].bytes == [97]


def test_streamed_logprobs_are_all_there(client: openai.OpenAI) -> None:
    chunks = client.chat.completions.create(
        model=ALIAS, messages=say("abc"), logprobs=True, stream=True
    )
    tokens = [
        item.token
        for chunk in chunks
        if chunk.choices[0].logprobs
        for item in chunk.choices[0].logprobs.content
    ]
    assert tokens == ["a", "b", "c", "<|im_end|>"]


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_cut_and_stop_the_engine(
    client: openai.OpenAI, engine: EngineSimulator, stream: bool
) -> None:
    before = engine.left_early
    answer = client.chat.completions.create(
        model=ALIAS, messages=say("one END two" * 50, 0.002), stop=["END", "ENDE"], stream=stream
    )
    if stream:
        assert "".join(c.choices[0].delta.content or "" for c in answer) == "one "
    else:
        assert answer.choices[0].message.content == "one "
        assert answer.choices[0].finish_reason == "stop"
    wait_until(lambda: engine.left_early == before + 1)


def test_sampling_reaches_the_engine(client: openai.OpenAI, engine: EngineSimulator) -> None:
    client.chat.completions.create(
        model=ALIAS, messages=say("x"), temperature=0.5, top_p=0.9, seed=7, max_completion_tokens=5
    )
    asked = engine.requests[-1]
    assert (asked.temperature, asked.top_p, asked.seed, asked.max_tokens) == (0.5, 0.9, 7, 5)
    assert asked.priority == "interactive"


def test_length_is_told(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=ALIAS, messages=say("abcdef"), max_tokens=3)
    assert answer.choices[0].message.content == "abc"
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_plain_completions(client: openai.OpenAI, stream: bool) -> None:
    prompt = 'say:{"text": "plain"}'
    answer = client.completions.create(model=ALIAS, prompt=prompt, stream=stream, logprobs=1)
    if stream:
        assert "".join(c.choices[0].text for c in answer) == "plain"
    else:
        assert answer.choices[0].text == "plain"
        assert answer.choices[0].logprobs.tokens[:2] == ["p", "l"]
        assert answer.choices[0].logprobs.text_offset[:2] == [0, 1]


def test_completions_take_token_ids(client: openai.OpenAI, appliance: Appliance) -> None:
    ids = appliance.template.encode_text('say:{"text": "ids"}')
    assert client.completions.create(model=ALIAS, prompt=ids).choices[0].text == "ids"


def test_models(client: openai.OpenAI) -> None:
    assert {ALIAS, f"{ALIAS}@base"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve(f"{ALIAS}@base").id == f"{ALIAS}@base"


def test_the_turn_is_in_the_log_before_the_answer_ends(
    client: openai.OpenAI, appliance: Appliance
) -> None:
    messages = say("tok")
    answer = client.chat.completions.create(
        model=ALIAS, messages=messages, n=2, seed=3, extra_headers={"x-espalier-session": "s-1"}
    )
    turns = appliance.turns(answer.id)
    assert [turn.choice for turn in turns] == [0, 1]
    turn = turns[1]
    ids = appliance.template.encode_text("tok") + appliance.template.stop_ids[:1]
    assert turn.answer_ids.digest_of_bytes == digest_bytes(struct.pack(f"<{len(ids)}i", *ids))
    prompt = appliance.template.encode(messages)
    assert turn.prompt_ids.digest_of_bytes == digest_bytes(struct.pack(f"<{len(prompt)}i", *prompt))
    assert turn.logprobs.digest_of_bytes == digest_bytes(struct.pack("<4f", *[-0.5] * 4))
    assert (turn.session, turn.adapter, turn.base) == ("s-1", None, appliance.base.digest)
    assert turn.template == appliance.template.digest
    assert (turn.label, turn.who.team) == ("internal", "t")
    assert turn.answer == {"role": "assistant", "content": "tok"}
    assert turn.sampling.seed == 3
    (event,) = [e for e in appliance.events() if e.record.get("turn_id") == answer.id][:1]
    assert set(event.blobs) >= {turn.prompt_ids.digest_of_bytes, turn.answer_ids.digest_of_bytes}


def test_a_streamed_turn_is_in_the_log_too(client: openai.OpenAI, appliance: Appliance) -> None:
    chunks = list(client.chat.completions.create(model=ALIAS, messages=say("str"), stream=True))
    (turn,) = appliance.turns(chunks[0].id)
    assert turn.answer["content"] == "str"


def test_a_secret_in_a_prompt_does_not_reach_the_log(
    client: openai.OpenAI, appliance: Appliance
) -> None:
    secret = "ghp_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7" + "cF0iL3oR6u"
    messages = [{"role": "system", "content": f"token is {secret}"}, *say("ok")]
    answer = client.chat.completions.create(model=ALIAS, messages=messages)
    (turn,) = appliance.turns(answer.id)
    assert turn.redacted == ("github-token",)
    assert turn.prompt_ids is None
    assert secret.encode() not in b"".join(p.read_bytes() for p in appliance.home.log.rglob("*.*"))


def test_leaving_stops_the_engine_and_is_logged(
    client: openai.OpenAI, engine: EngineSimulator, appliance: Appliance
) -> None:
    before = engine.left_early
    with client.chat.completions.create(
        model=ALIAS, messages=say("long " * 200, 0.005), stream=True
    ) as stream:
        request_id = next(iter(stream)).id
    wait_until(lambda: engine.left_early == before + 1)
    wait_until(lambda: appliance.turns(request_id))
    (turn,) = appliance.turns(request_id)
    assert turn.finish_reason == "error"
    assert ("long " * 200).startswith(turn.answer["content"])


def test_feedback_of_every_kind(
    client: openai.OpenAI, appliance: Appliance, gateway: GatewayProcess
) -> None:
    for body in (
        {"target": {"turn_id": "never"}, "kind": "outcome", "outcome": "ok", "tags": {"task": "a"}},
        {"target": {"session": "s"}, "correction": "this", "source": "human"},
        {"target": {"reference": "commit 1"}, "comment": "nice", "source": "model"},
        {"target": {"trajectory_id": "t"}, "outcome": "failed", "feedback_id": "mine"},
    ):
        answer = client.post("/feedback", body=body, cast_to=object)
        assert answer["status"] == "recorded"
    events = [event for event in appliance.events() if event.kind == "feedback"]
    found = [convert(event.record, Feedback) for event in events][-4:]
    assert [f.kind for f in found] == ["outcome", "correction", "comment", "outcome"]
    assert [f.outcome for f in found] == ["ok", "unknown", "unknown", "failed"]
    assert found[3].feedback_id == "mine"
    assert found[0].actor.startswith("key-")


def test_many_at_once(client: openai.OpenAI) -> None:
    failures = []

    def ask(name: int) -> None:
        answer = client.chat.completions.create(model=ALIAS, messages=say(f"I am {name}", 0.001))
        if answer.choices[0].message.content != f"I am {name}":
            failures.append(name)

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
