"""In float32 an answer is the same, token for token and bit for bit, whatever else is in the batch.

What else: 1 to 64 sequences of the base and of three adapters of different rank, prompts of other
lengths that arrive at other steps, a row that was given up and taken again, a prompt that was found
in the cache or not.
"""

import random

import pytest
import torch

from appliance.inference import steady

PROMPT = [9, 8, 7, 6, 5, 4, 3, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51]
LONG = [(i * 37) % 290 for i in range(230)]


@pytest.fixture
def adapters(request, make_adapter):
    ranks = getattr(request, "param", (2, 8, 40))
    return [None, *(make_adapter(seed, rank=rank)[0] for seed, rank in enumerate(ranks, 1))]


@pytest.fixture
def make(make_engine, install, adapters):
    """An engine with all the adapters in its slots."""

    def act(**sizes):
        engine = make_engine(**({"max_batch": 64, "cache_tokens": 40000} | sizes))
        for adapter in adapters[1:]:
            install(engine, adapter)
        return engine

    return act


def asked(adapters):
    """The requests whose answers are watched: (prompt, fields)."""
    return [
        (prompt, {"adapter": adapter, "temperature": temperature, "seed": 7, "max_tokens": 40})
        for prompt, temperature in ((PROMPT, 0.9), (LONG, 0.0))
        for adapter in adapters
    ]


@pytest.fixture
def alone(make, submit, run, adapters):
    """Each of them in an engine of its own."""
    answers = []
    for prompt, fields in asked(adapters):
        engine = make(max_batch=1)
        answers.append(submit(engine, prompt, **fields))
        run(engine)
    return answers


def noise(engine, submit, adapters, count, random_state):
    """`count` requests of other people's."""
    for _ in range(count):
        prompt = [random_state.randrange(290) for _ in range(random_state.randrange(1, 180))]
        submit(
            engine,
            prompt,
            adapter=random_state.choice(adapters),
            temperature=1.0,
            top_p=random_state.choice([1.0, 0.8]),
            seed=random_state.randrange(1000),
            max_tokens=random_state.randrange(1, 60),
        )


def same(got, expected):
    return [(c.ids, c.logprobs) for c in got] == [(c.ids, c.logprobs) for c in expected]


@pytest.mark.parametrize(
    ("others", "threads"), [(0, 1), (3, 1), (13, 1), (30, 1), (55, 1), (3, 2), (30, 2)]
)
def test_the_same_bits_in_any_company(make, submit, run, adapters, alone, others, threads):
    torch.set_num_threads(threads)
    try:
        random_state = random.Random(others)
        engine = make()
        collected = []
        for prompt, fields in asked(adapters):
            noise(engine, submit, adapters, others // 16, random_state)
            collected.append(submit(engine, prompt, **fields))
            for _ in range(random_state.randrange(4)):
                engine.step()
        noise(engine, submit, adapters, others, random_state)
        run(engine)
    finally:
        torch.set_num_threads(1)
    assert same(collected, alone)


@pytest.mark.parametrize("adapters", [(1, 2, 1), (100, 64, 3)], indirect=True)
def test_the_same_bits_whatever_the_ranks(make, submit, run, adapters, alone):
    engine = make()
    collected = [submit(engine, prompt, **fields) for prompt, fields in asked(adapters)]
    run(engine)
    assert same(collected, alone)


def test_the_same_bits_where_rows_are_given_up(make, submit, run, adapters, alone):
    engine = make(cache_tokens=900)
    given_up = []
    vacate = engine._schedule.vacate

    def watch(sequence):
        given_up.append(len(sequence.ids) < sequence.limit)
        vacate(sequence)

    engine._schedule.vacate = watch
    collected = [submit(engine, prompt, **fields) for prompt, fields in asked(adapters)]
    run(engine)
    assert any(given_up)
    assert same(collected, alone)


def test_the_same_bits_from_the_cache(make, submit, run, adapters, alone):
    engine = make()
    for _ in range(2):
        collected = [submit(engine, prompt, **fields) for prompt, fields in asked(adapters)]
        run(engine)
    assert {c.stream.cached_tokens for c in collected} == {len(PROMPT) - 1, len(LONG) - 1}
    assert same(collected, alone)


def test_an_answer_in_the_cache_is_as_good_as_its_prompt(make, submit, run, adapters):
    """What decoding wrote and what filling would write are the same numbers."""
    for adapter in adapters:
        engine, fresh = make(), make()
        first = submit(engine, PROMPT, adapter=adapter, max_tokens=200)
        run(engine)
        turn = [*PROMPT, *first.ids[0], 5, 6]
        second, again = (submit(e, turn, adapter=adapter, max_tokens=20) for e in (engine, fresh))
        run(engine)
        run(fresh)
        assert second.stream.cached_tokens >= 200
        assert again.stream.cached_tokens == 0
        assert same([second], [again])


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, 16), (192, 192), (193, 384), (383, 384), (385, 400), (512, 512), (705, 896), (513, 528)],
)
def test_sums_over_keys_are_never_cut_by_company(count, expected):
    assert steady.keys(count) == expected
