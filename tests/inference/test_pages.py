"""Blocks of the cache: who has them, and that rows show them, on a CPU and as on a GPU."""

import gc
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.errors import IntegrityError
from appliance.inference import engine as engine_module
from appliance.inference import graphs, kv_pages
from appliance.inference.architecture import read_architecture
from appliance.inference.blocks import Blocks, block_keys
from appliance.inference.kv_pages import GatheredPages, MappedPages

PROMPT = list(range(20, 120))


@pytest.fixture(params=[MappedPages, GatheredPages])
def make_pages(request, base):
    shape = read_architecture(base.path)
    place = {"device": torch.device("cpu"), "dtype": torch.float32}

    def make(max_rows=4, max_tokens=640):
        return request.param(shape, max_rows=max_rows, max_tokens=max_tokens, **place)

    return make


def filled(pages):
    """Put into every block its own number."""
    for block in range(pages.count):
        pages.data[:, block] = block + 1
    return pages


def shown(pages, row, length):
    return pages.read(1, slice(row, row + 1), length)[0, :: pages.block, 0].tolist()


def test_a_row_shows_its_blocks_in_order(make_pages):
    pages = filled(make_pages())
    pages.place(0, 0, [3, 4, 9])
    pages.place(1, 0, [7])
    pages.place(1, 1, [3])
    assert shown(pages, 0, 48) == [4, 5, 10]
    assert shown(pages, 1, 32) == [8, 4]


def test_what_is_written_to_a_row_stands_in_its_block(make_pages):
    pages = filled(make_pages())
    pages.place(2, 0, [5, 1])
    where = pages.where(torch.tensor([2, 2]), torch.tensor([0, 17]))
    pages.write(1, where, torch.stack([torch.full((64,), 100.0), torch.full((64,), 200.0)]))
    assert pages.data[1, 5, 0, 0] == 100
    assert pages.data[1, 1, 1, 63] == 200
    pages.place(0, 0, [1])
    assert pages.read(1, slice(1), 16)[0, 1, 5] == 200


def test_what_no_block_stands_behind_is_finite(make_pages):
    pages = make_pages()
    assert torch.isfinite(pages.read(0, slice(4), 512)).all()


def test_mappings_are_counted_and_old_ones_hidden(base):
    place = {"device": torch.device("cpu"), "dtype": torch.float32}
    pages = MappedPages(read_architecture(base.path), max_rows=3, max_tokens=640, **place)
    pages._most_parts = 6
    pages.place(0, 0, [0, 2, 4, 6])
    assert pages.can_place(2, used=1)
    assert not pages.can_place(3, used=1)
    pages.place(0, 0, [0])
    assert pages.can_place(5, used=1)
    pages.place(1, 0, [1, 3, 5, 7])
    assert not pages.can_place(2, used=2)
    assert pages.can_place(2, used=1)
    assert shown(pages, 1, 64) == [0, 0, 0, 0]


def test_memory_goes_back_with_its_pages(base):
    place = {"device": torch.device("cpu"), "dtype": torch.float32}
    shape = read_architecture(base.path)

    def num_mapped():
        maps = Path("/proc/self/maps").read_text()
        return maps.count("espalier-cache"), len(list(Path("/proc/self/fd").iterdir()))

    gc.collect()
    before = num_mapped()
    pages = MappedPages(shape, max_rows=3, max_tokens=640, **place)
    pages.place(0, 0, [0, 2, 4, 6])
    assert num_mapped()[0] > before[0]
    del pages
    gc.collect()
    assert num_mapped() == before


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(1, 60)), max_size=40))
def test_blocks_are_never_given_twice_nor_lost(acts):
    blocks, held = Blocks(12), []
    for act, which, length in acts:
        keys = block_keys(None, [which] * length, 4)
        if act < 2:
            found = blocks.find(keys)[: length // 4]
            wanted = len(keys) - len(found)
            if wanted + blocks.num_kept(found) <= blocks.available:
                blocks.share(found)
                taken = blocks.take(wanted, after=found[-1] if found else -1)
                assert not set(taken) & {b for _, mine in held for b in mine}
                assert len(set(taken)) == wanted
                held.append((keys, found + taken))
        elif held:
            keys, mine = held.pop(which % len(held))
            if act == 2:
                blocks.keep(keys, mine)
            blocks.drop(mine)
            if act == 2:
                assert len(blocks.find(keys)) == len(keys)
        used = {b for _, mine in held for b in mine}
        assert blocks.available == 12 - len(used)


def test_a_prompt_that_is_known_takes_no_blocks_and_no_copies(
    make_engine, submit, run, monkeypatch
):
    engine = make_engine()
    copies = []
    copy = engine._pages.copy
    monkeypatch.setattr(engine._pages, "copy", lambda *a: copies.append(a) or copy(*a))
    submit(engine, PROMPT, max_tokens=1)
    run(engine)
    collected = submit(engine, PROMPT, n=4, max_tokens=5)
    engine.step()
    running = engine._schedule.running
    whole = [s.blocks[:6] for s in running]
    assert len(running) == 4
    assert whole == [whole[0]] * 4
    assert len({s.blocks[6] for s in running}) == 4, "the partly filled block is everybody's own"
    # 99 tokens are six blocks and three tokens: only those are copied.
    assert [tokens for _, _, tokens in copies] == [3] * 4
    run(engine)
    assert {tuple(ids) for ids in collected.ids.values()} == {tuple(collected.ids[0])}


def test_one_long_sequence_takes_only_its_own_room(make_engine, submit, run):
    """Rows of one length would leave room for two here."""
    engine = make_engine(cache_tokens=640, max_batch=8)
    submit(engine, list(range(250)) + [5] * 50, max_tokens=5)
    for first in range(7):
        submit(engine, [first, 7], max_tokens=20)
    engine.step()
    assert engine.num_running == 8
    run(engine)


def test_numbers_that_are_not_finite_end_their_request_and_nobody_elses(
    make_engine, make_adapter, install, submit, run
):
    engine = make_engine(max_batch=4, cache_tokens=640)
    adapter, _ = make_adapter(1)
    install(engine, adapter)
    expected = submit(engine, [5, 6], max_tokens=30)
    run(engine)
    with torch.inference_mode():
        # Finite, so it is let in; its products are not.
        engine._lora._a[0][0][:3] = 3e38
        engine._lora._b[0][0][:3] = 3e38
    bad = submit(engine, PROMPT, adapter=adapter, n=2, max_tokens=5)
    good = submit(engine, [5, 6], max_tokens=30)
    run(engine)
    assert isinstance(bad.error, IntegrityError)
    assert good.ids == expected.ids
    assert torch.isfinite(engine._pages.data).all()
    later = submit(engine, [5, 6], max_tokens=30)
    run(engine)
    assert later.ids == expected.ids


def test_recorded_steps_answer_as_plain_ones(
    make_engine, make_adapter, install, submit, run, monkeypatch
):
    """All of a GPU's way but the recording itself: the table, fixed inputs, rounded sizes."""

    def played(step):
        result = step()
        return lambda: result.copy_(step()), result

    def ask(engine):
        adapter, _ = adapters
        install(engine, adapter)
        collected = []
        for i in range(11):
            for which, t in ((None, 0.0), (adapter, 0.9)):
                fields = {"adapter": which, "temperature": t, "max_tokens": 30}
                collected.append(submit(engine, PROMPT[i : 8 * i + 1], **fields))
            engine.step()
        run(engine)
        return [c.ids for c in collected]

    adapters = make_adapter(1)
    # Prompts are filled in pieces while others decode.
    monkeypatch.setattr(engine_module, "_FILL_TOKENS", 24)
    expected = ask(make_engine(max_batch=16))
    monkeypatch.setattr(graphs, "capture", played)
    monkeypatch.setattr(
        engine_module,
        "make_pages",
        lambda shape, **sizes: kv_pages.GatheredPages(shape, **sizes),
    )
    engine = make_engine(max_batch=16)
    assert ask(engine) == expected
    assert set(engine._decoder._graphs._steps) == {(16, 512, 4), (8, 512, 4)}
