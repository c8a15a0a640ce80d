"""What a request gets does not depend on what else is in the batch."""

import pytest

from appliance.core.errors import UsageError

PROMPT = [9, 8, 7, 6, 5, 4, 3]
SAMPLED = {"temperature": 0.9, "max_tokens": 24, "seed": 11}


def alone(engine, submit, run, prompt, **fields):
    collected = submit(engine, prompt, **fields)
    run(engine)
    return collected


@pytest.mark.parametrize("others", [0, 1, 7, 31, 63])
def test_same_tokens_for_a_seed_whatever_else_runs(make_engine, submit, run, others):
    expected = alone(make_engine(max_batch=1), submit, run, PROMPT, n=2, **SAMPLED)
    engine = make_engine(max_batch=64, cache_tokens=32768)
    for other in range(others):
        submit(engine, [other + 3] * (other % 23 + 1), temperature=1.0, seed=other, max_tokens=30)
    collected = submit(engine, PROMPT, n=2, **SAMPLED)
    run(engine)
    assert collected.ids == expected.ids
    assert collected.ids[0] != collected.ids[1]


def test_another_seed_draws_other_tokens(make_engine, submit, run):
    engine = make_engine()
    one = submit(engine, PROMPT, **SAMPLED)
    other = submit(engine, PROMPT, **(SAMPLED | {"seed": 12}))
    run(engine)
    assert one.ids != other.ids


def test_prefix_reuse_gives_the_same_tokens(make_engine, submit, run):
    prompt = list(range(20, 140))
    engine = make_engine()
    first = alone(engine, submit, run, prompt, **SAMPLED)
    again = alone(engine, submit, run, prompt, **SAMPLED)
    longer = [*prompt[:100], 7, 8, 9]
    mixed = alone(engine, submit, run, longer, **SAMPLED)
    fresh = alone(make_engine(), submit, run, longer, **SAMPLED)
    assert (first.stream.cached_tokens, again.stream.cached_tokens) == (0, len(prompt) - 1)
    assert mixed.stream.cached_tokens == 96
    assert again.ids == first.ids
    assert mixed.ids == fresh.ids


def test_the_next_turn_finds_this_ones_answer(make_engine, submit, run):
    engine = make_engine()
    prompt = list(range(20, 60))
    first = alone(engine, submit, run, prompt, max_tokens=30)
    second = alone(engine, submit, run, [*prompt, *first.ids[0], 5, 6], max_tokens=4)
    assert second.stream.cached_tokens == 64


def test_one_adapters_prefix_is_not_anothers(make_engine, make_adapter, install, submit, run):
    engine = make_engine()
    adapter, _ = make_adapter(1)
    install(engine, adapter)
    prompt = list(range(20, 60))
    alone(engine, submit, run, prompt)
    adapted = alone(engine, submit, run, prompt, adapter=adapter)
    assert adapted.stream.cached_tokens == 0


def test_choices_and_twins_share_one_prompt(make_engine, submit, run, monkeypatch):
    engine = make_engine()
    computed = []
    hidden = engine.model.hidden
    monkeypatch.setattr(
        engine.model, "hidden", lambda ids, *rest: computed.append(len(ids)) or hidden(ids, *rest)
    )
    prompt = list(range(30, 130))
    one = submit(engine, prompt, n=4, max_tokens=1)
    twin = submit(engine, prompt, n=2, max_tokens=1)
    run(engine)
    # The prompt once, then its last token once for each other choice, rounded up to rows of 4.
    assert computed == [100, 8]
    assert {token for c in (one, twin) for ids in c.ids.values() for token in ids} == set(
        one.ids[0]
    )


def test_a_full_prefix_cache_forgets_the_oldest(make_engine, submit, run):
    engine = make_engine(cache_tokens=64)
    old, new = list(range(20, 68)), list(range(80, 128))
    alone(engine, submit, run, old, max_tokens=1)
    alone(engine, submit, run, new, max_tokens=1)
    assert alone(engine, submit, run, new, max_tokens=1).stream.cached_tokens == 47
    assert alone(engine, submit, run, old, max_tokens=1).stream.cached_tokens == 0


def test_long_prompts_are_computed_in_pieces_while_others_decode(make_engine, submit, monkeypatch):
    monkeypatch.setattr("appliance.inference.engine._FILL_TOKENS", 32)
    engine = make_engine()
    talking = submit(engine, [5], max_tokens=50)
    engine.step()
    submit(engine, list(range(20, 220)), max_tokens=5)
    before = len(talking.ids[0])
    for _ in range(5):
        engine.step()
    assert len(talking.ids[0]) == before + 5


def test_interactive_takes_a_row_from_batch_work_which_then_goes_on(make_engine, submit, run):
    engine = make_engine(max_batch=2)
    expected = alone(make_engine(), submit, run, PROMPT, **SAMPLED)
    background = [submit(engine, PROMPT, priority="batch", **SAMPLED) for _ in range(3)]
    for _ in range(6):
        engine.step()
    urgent = submit(engine, [77, 78], max_tokens=2)
    engine.step()
    assert urgent.finish[0] == "length"
    run(engine)
    assert [b.ids[0] for b in background] == [expected.ids[0]] * 3


def test_interactive_is_admitted_before_batch_work_that_came_first(make_engine, submit):
    engine = make_engine(max_batch=1)
    background = submit(engine, [3], priority="batch", max_tokens=3)
    urgent = submit(engine, [4], max_tokens=3)
    for _ in range(3):
        engine.step()
    assert (len(urgent.ids[0]), background.ids) == (3, {})


def test_rows_grow_and_give_way_when_memory_is_short(make_engine, submit, run):
    """Two sequences that fit together at first, and not at their ends."""
    wanted = {"temperature": 0.8, "seed": 4, "max_tokens": 250}
    expected = [alone(make_engine(), submit, run, [t, t], **wanted) for t in (40, 41, 42)]
    engine = make_engine(cache_tokens=512)
    collected = [submit(engine, [t, t], **wanted) for t in (40, 41, 42)]
    run(engine)
    assert [c.ids for c in collected] == [e.ids for e in expected]


def test_an_answer_ends_at_a_stop_id_or_a_limit(make_engine, submit, run):
    engine = make_engine(cache_tokens=128)
    free = alone(engine, submit, run, PROMPT, max_tokens=10)
    stop = free.ids[0][4]
    stopped = alone(engine, submit, run, PROMPT, max_tokens=10, stop_ids=[stop])
    assert stopped.ids[0] == free.ids[0][: free.ids[0].index(stop) + 1]
    assert (free.finish[0], stopped.finish[0]) == ("length", "stop")
    full = alone(engine, submit, run, PROMPT, max_tokens=1000)
    assert (len(full.ids[0]), full.finish[0]) == (128 - len(PROMPT), "length")


def test_cancelled_work_leaves_no_trace(make_engine, submit, run):
    engine = make_engine(max_batch=3)
    expected = alone(make_engine(), submit, run, PROMPT, **SAMPLED)
    gone = submit(engine, [60, 61], n=5, max_tokens=100)
    stays = submit(engine, PROMPT, **SAMPLED)
    for _ in range(4):
        engine.step()
    engine.cancel(gone.stream)
    run(engine)
    assert max(map(len, gone.ids.values())) == 5
    assert stays.ids[0] == expected.ids[0]
    assert (engine.num_running, engine.num_waiting) == (0, 0)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([5] * 600, "600 tokens"), ([300], "id 300 is not one of this base's 300")],
)
def test_impossible_requests_are_refused(make_engine, submit, prompt, message):
    with pytest.raises(UsageError, match=message):
        submit(make_engine(), prompt)
