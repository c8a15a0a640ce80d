"""Stop texts at token level, and answers that keep to a JSON schema or a grammar."""

import json

import pytest
from tokenizers import Tokenizer

from appliance.core.errors import UsageError
from appliance.engine.tool_calls import calls_grammar, parse_answer
from appliance.engine.wire import Generate
from appliance.inference.vocabulary import StopTexts, Vocabulary

PROMPT = [9, 8, 7, 6, 5]
OBJECT = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 5},
            "size": {"enum": ["small", "large"]},
            "many": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
        },
        "required": ["name", "size", "many"],
        "additionalProperties": False,
    }
)
WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Ulm", "Bonn"]}, "days": {"type": "integer", "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
CALL = calls_grammar({"weather": WEATHER}, once=True)


@pytest.fixture
def tokenizer(oracle):
    return Tokenizer.from_file(str(oracle[0] / "tokenizer.json"))


def ids_of(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def found_at(tokenizer, text, stops):
    """Index of the id that completes a stop text, or None; and the text's ids."""
    watch = StopTexts(tokenizer, stops)
    ids = ids_of(tokenizer, text)
    return next((i for i, token in enumerate(ids) if watch.take(token)), None), ids


@pytest.mark.parametrize(
    ("text", "stops", "upto"),
    [
        ("one two END three", ["END"], "one two END"),
        ("one two END three", ["two", "END"], "one two"),
        ("ab\n\ncd", ["\n\n"], "ab\n\n"),
        ("x", ["x"], "x"),
        ("grün € und mehr", ["€"], "grün €"),
        ("grün € und mehr", ["ü"], "grü"),
        ("a long text before it comes at last", ["last"], "a long text before it comes at last"),
    ],
)
def test_the_token_that_completes_a_stop_text_is_found(tokenizer, text, stops, upto):
    at, ids = found_at(tokenizer, text, stops)
    assert not any(stop in tokenizer.decode(ids[:at]) for stop in stops)
    assert any(stop in tokenizer.decode(ids[: at + 1]) for stop in stops)
    assert tokenizer.decode(ids[: at + 1]).startswith(upto)


def test_nothing_stops_without_its_text(tokenizer):
    assert found_at(tokenizer, "EN D E ND", ["END"])[0] is None


def test_an_answer_ends_with_the_token_that_completes_a_stop_text(
    make_engine, submit, run, tokenizer
):
    engine = make_engine()
    free = submit(engine, PROMPT, max_tokens=60, temperature=1.0, n=2, seed=5)
    run(engine)
    text = tokenizer.decode(free.ids[0][:20])
    stop = text[-6:-2]
    stopped = submit(engine, PROMPT, max_tokens=60, temperature=1.0, n=2, seed=5, stops=[stop])
    run(engine)
    count = len(stopped.ids[0])
    assert stopped.finish[0] == "stop"
    assert stopped.ids[0] == free.ids[0][:count]
    assert stopped.logprobs[0] == free.logprobs[0][:count]
    assert stop in tokenizer.decode(stopped.ids[0])
    assert stop not in tokenizer.decode(stopped.ids[0][:-1])
    # The other choice goes on until it writes the text itself.
    assert stopped.ids[1] == free.ids[1][: len(stopped.ids[1])]


def test_a_stop_text_is_found_across_a_row_that_was_given_up(make_engine, submit, run, tokenizer):
    engine = make_engine(max_batch=1)
    free = submit(engine, PROMPT, max_tokens=40, temperature=1.0, seed=5)
    run(engine)
    stop = tokenizer.decode(free.ids[0][:24])[-4:]
    fields = {"max_tokens": 40, "temperature": 1.0, "seed": 5, "stops": [stop]}
    expected = submit(engine, PROMPT, **fields)
    run(engine)
    background = submit(engine, PROMPT, priority="batch", **fields)
    for _ in range(len(expected.ids[0]) - 2):
        engine.step()
    submit(engine, [4], max_tokens=2)
    run(engine)
    assert background.ids == expected.ids


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_keeps_to_its_schema(make_engine, submit, run, tokenizer, temperature):
    engine = make_engine()
    fields = {"json_schema": OBJECT, "max_tokens": 400, "temperature": temperature}
    collected = submit(engine, PROMPT, n=4, stop_ids=[2], **fields)
    run(engine)
    for choice in range(4):
        assert collected.finish[choice] == "stop"
        assert collected.ids[choice][-1] == 2
        answer = json.loads(tokenizer.decode(collected.ids[choice]))
        assert set(answer) == {"name", "size", "many"}
        assert answer["size"] in ("small", "large")
        assert len(answer["many"]) <= 3


def test_logprobs_are_those_of_what_the_schema_leaves(make_engine, submit, run, tokenizer):
    """`"small"` or `"large"`: after the quote, all probability is on what begins one of them."""
    engine = make_engine()
    fields = {"json_schema": '{"enum": ["small", "large"]}', "max_tokens": 30, "top_logprobs": 20}
    collected = submit(engine, PROMPT, temperature=0.7, stop_ids=[2], **fields)
    plain = submit(engine, PROMPT, temperature=0.7, max_tokens=1, top_logprobs=20)
    greedy = submit(engine, PROMPT, stop_ids=[2], **fields)
    run(engine)
    for answer in (collected, greedy):
        assert json.loads(tokenizer.decode(answer.ids[0])) in ("small", "large")
        for token, logprob, top in zip(
            answer.ids[0], answer.logprobs[0], answer.top[0], strict=True
        ):
            known = dict(top)
            assert known[token] == logprob
            total = sum(2.718281828459045**value for value in known.values())
            assert total == pytest.approx(1.0, abs=1e-4)
    # The last one, the end of the turn, was the only one left.
    assert collected.logprobs[0][-1] == 0.0
    assert len(plain.top[0][0]) == 20


def test_a_schema_does_not_touch_its_neighbours(make_engine, submit, run):
    alone, engine = make_engine(), make_engine()
    expected = submit(alone, PROMPT, max_tokens=30, temperature=1.0, seed=3)
    run(alone)
    submit(engine, PROMPT, json_schema=OBJECT, max_tokens=30, temperature=1.0, seed=3)
    collected = submit(engine, PROMPT, max_tokens=30, temperature=1.0, seed=3)
    run(engine)
    assert (collected.ids, collected.logprobs) == (expected.ids, expected.logprobs)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("no json", "cannot be met"),
        ("[]", "must be an object"),
        ('{"type": "strin"}', "Invalid type"),
        ('{"$ref": "#/nowhere"}', "does not exist"),
        ('{"not": {}}', "Unimplemented keys"),
        ('{"type": "integer", "minimum": 5, "maximum": 3}', "minimum"),
        ('{"type": "string", "pattern": "(?=a)b"}', "regex"),
    ],
)
def test_a_schema_that_cannot_be_compiled_is_refused_with_its_reason(
    make_engine, submit, schema, reason
):
    with pytest.raises(UsageError, match=reason):
        submit(make_engine(), PROMPT, json_schema=schema)


def test_a_schema_is_compiled_once(base, monkeypatch):
    vocabulary = Vocabulary.load(base.path, 300)
    compiled = []
    compile_ = vocabulary._compile
    monkeypatch.setattr(vocabulary, "_compile", lambda g: compiled.append(g) or compile_(g))
    for schema in (OBJECT, '{"type": "string"}', OBJECT):
        assert vocabulary.rules(Generate(prompt_ids=[1], json_schema=schema)) is not None
        assert vocabulary.rules(Generate(prompt_ids=[1], grammar=CALL)) is not None
    assert len(compiled) == 3


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_keeps_to_its_grammar(make_engine, submit, run, tokenizer, temperature):
    """A call that is forced is the whole answer, whatever the model would have liked to say."""
    engine = make_engine()
    collected = submit(
        engine, PROMPT, n=4, stop_ids=[2], grammar=CALL, max_tokens=400, temperature=temperature
    )
    run(engine)
    for choice in range(4):
        assert collected.finish[choice] == "stop"
        assert collected.ids[choice][-1] == 2, "the end of the turn is sampled, too"
        text = tokenizer.decode(collected.ids[choice])
        message = parse_answer(text)
        assert message["content"] is None
        (call,) = message["tool_calls"]
        arguments = json.loads(call["function"]["arguments"])
        assert call["function"]["name"] == "weather"
        assert arguments["city"] in ("Ulm", "Bonn")
        # Spaced as templates write it in the next prompt: the same tokens stand there again.
        assert call["function"]["arguments"] in text


def test_a_grammar_that_cannot_be_compiled_is_refused_with_its_reason(make_engine, submit):
    with pytest.raises(UsageError, match=r"cannot be met: .*unknown name"):
        submit(make_engine(), PROMPT, grammar="start: nothing")
    with pytest.raises(UsageError, match="not to both"):
        submit(make_engine(), PROMPT, grammar=CALL, json_schema=OBJECT)


def test_nothing_is_made_for_a_request_that_asks_for_neither(base):
    assert Vocabulary.load(base.path, 300).rules(Generate(prompt_ids=[1])) is None
