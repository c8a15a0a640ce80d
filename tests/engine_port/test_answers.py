"""What an answer is on every engine: ids as sampled, with the probability they were drawn with."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from appliance.engine.template import Template
from appliance.engine.tool_calls import calls_grammar, parse_answer
from tests.engine_port.checks import PROMPT, ask
from tests.engine_port.company import STOP
from tests.engine_port.engines import MAX_BATCH, REPLICAS, UnderTest, wait_for


def test_seeds_hold(engine: UnderTest) -> None:
    adapter = engine.prepare(engine.company.adapters[0])
    first = engine.client.generate(ask(adapter, seed=5, n=3))
    again = engine.client.generate(ask(adapter, seed=5, n=3))
    other = engine.client.generate(ask(adapter, seed=6))
    assert [c.ids for c in first.choices] == [c.ids for c in again.choices]
    assert len({tuple(c.ids) for c in [*first.choices, *other.choices]}) == 4


def test_seeds_hold_among_other_requests(engine: UnderTest) -> None:
    adapter = engine.prepare(engine.company.adapters[0])
    alone = engine.client.generate(ask(adapter, seed=5)).choices[0]
    crowd = [ask(None, seed=n, num=64) for n in range(5)]
    with ThreadPoolExecutor(6) as pool:
        others = [pool.submit(engine.client.generate, one) for one in crowd]
        among = engine.client.generate(ask(adapter, seed=5)).choices[0]
        assert all(len(other.result().choices[0].ids) == 64 for other in others)
    assert among.ids == alone.ids
    assert among.logprobs == pytest.approx(alone.logprobs, abs=1e-3)


def test_temperature_zero_needs_no_seed(engine: UnderTest) -> None:
    one, other = (
        engine.client.generate(ask(None, seed=seed, temperature=0.0)).choices[0].ids
        for seed in (1, 2)
    )
    assert one == other


def test_an_answer_has_as_many_tokens_as_were_asked_for(engine: UnderTest) -> None:
    choice = engine.client.generate(ask(None, num=17)).choices[0]
    assert (len(choice.ids), len(choice.logprobs), choice.finish_reason) == (17, 17, "length")


def test_a_stop_id_is_the_answers_last_token(engine: UnderTest) -> None:
    free = engine.client.generate(ask(None, num=32)).choices[0].ids
    stop = next(token for at, token in enumerate(free[8:], 8) if token not in free[:at])
    choice = engine.client.generate(ask(None, num=32, stop_ids=[STOP, stop])).choices[0]
    assert choice.ids == free[: free.index(stop) + 1]
    assert choice.finish_reason == "stop"


def test_what_is_told_of_a_prompt_is_so(engine: UnderTest) -> None:
    assert engine.client.generate(ask(None, num=2)).prompt_tokens == len(PROMPT)


def test_the_likeliest_tokens_are_told_in_order(engine: UnderTest) -> None:
    if engine.name == "simulator":
        pytest.skip("it has no distribution")
    choice = engine.client.generate(ask(None, num=8, top_logprobs=4)).choices[0]
    for token, logprob, top in zip(choice.ids, choice.logprobs, choice.top_logprobs, strict=True):
        values = [value for _, value in top]
        assert len(top) == 4
        assert values == sorted(values, reverse=True)
        assert dict(top).get(token, logprob) == pytest.approx(logprob, abs=1e-5)
        assert logprob <= values[0] + 1e-6


def test_a_logprob_is_of_the_distribution_that_was_drawn_from(engine: UnderTest) -> None:
    if engine.name == "simulator":
        pytest.skip("it has no distribution")
    certain = engine.client.generate(ask(None, num=8, top_k=1)).choices[0]
    assert certain.logprobs == pytest.approx([0.0] * 8, abs=1e-6)
    cold = engine.client.generate(ask(None, num=8, temperature=0.25, seed=3)).choices[0]
    plain = engine.client.score(None, [[*PROMPT, *cold.ids]])[0][len(PROMPT) - 1 :]
    assert sum(cold.logprobs) > sum(plain) + 0.5


def test_a_text_that_stops_ends_the_answer_where_it_is_complete(engine: UnderTest) -> None:
    if engine.name == "simulator":
        pytest.skip("the gateway cuts what it says")
    free = engine.client.generate(ask(None, num=48)).choices[0].ids
    # A letter that appears for the first time somewhere in the middle.
    at = next(at for at in range(8, 48) if _letter(engine, free[at]) and free[at] not in free[:at])
    choice = engine.client.generate(ask(None, num=48, stops=[_letter(engine, free[at])])).choices[0]
    assert choice.finish_reason == "stop"
    assert choice.ids == free[: at + 1]


def test_an_answer_meets_its_schema(engine: UnderTest) -> None:
    if engine.name == "simulator":
        pytest.skip("it says what its script says")
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "way": {"enum": ["left", "right"]}},
        "required": ["ok", "way"],
        "additionalProperties": False,
    }
    request = ask(None, num=200, stop_ids=[STOP], json_schema=json.dumps(schema), temperature=0.5)
    choice = engine.client.generate(request).choices[0]
    value = json.loads(_spell(engine, choice.ids))
    assert choice.finish_reason == "stop"
    assert set(value) == {"ok", "way"}
    assert value["way"] in ("left", "right")


def test_an_answer_keeps_to_its_grammar(engine: UnderTest) -> None:
    if engine.name == "simulator":
        pytest.skip("it says what its script says")
    schema = {"properties": {"way": {"enum": ["left", "right"]}}, "required": ["way"]}
    grammar = calls_grammar({"turn": {**schema, "additionalProperties": False}}, once=True)
    request = ask(None, num=200, stop_ids=[STOP], grammar=grammar, temperature=0.5)
    choice = engine.client.generate(request).choices[0]
    (call,) = parse_answer(_spell(engine, choice.ids))["tool_calls"]
    assert choice.finish_reason == "stop"
    assert call["function"]["name"] == "turn"
    assert json.loads(call["function"]["arguments"])["way"] in ("left", "right")


def test_whoever_leaves_early_stops_the_engine(engine: UnderTest) -> None:
    stream = engine.client.stream(ask(None, num=900))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    health = wait_for(engine.client, None, lambda h: h.running == 0, engine.log)
    assert health.running == 0


def test_people_come_before_batch_work(engine: UnderTest) -> None:
    if engine.name == "simulator":
        pytest.skip("it has no queue")
    batch = [ask(None, seed=n, num=400, priority="batch") for n in range(3 * REPLICAS * MAX_BATCH)]
    with ThreadPoolExecutor(len(batch)) as pool:
        waiting = [pool.submit(engine.client.generate, one) for one in batch]
        time.sleep(0.3)
        answer = engine.client.generate(ask(None, num=4)).choices[0]
        unfinished = sum(not one.done() for one in waiting)
        assert all(len(one.result().choices[0].ids) == 400 for one in waiting)
    assert len(answer.ids) == 4
    # In turn, it would have come when no more were left than run at once.
    assert unfinished > REPLICAS * MAX_BATCH


def _letter(engine: UnderTest, token: int) -> str:
    """The letter that a token is; empty where it is none."""
    text = _spell(engine, [token])
    return text if text.isascii() and text.isalpha() else ""


def _spell(engine: UnderTest, ids: list[int]) -> str:
    return Template.load(engine.company.base.path).decode(ids)
