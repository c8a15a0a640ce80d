"""What every engine refuses, with the error of our tree that says why; and serving goes on."""

import shutil

import pytest

from appliance.core.adapters import WEIGHTS
from appliance.core.errors import AdapterError, ConflictError, NotFoundError, UsageError
from tests.engine_port.checks import ask
from tests.engine_port.engines import UnderTest


@pytest.fixture(autouse=True)
def _still_serves(engine: UnderTest) -> object:
    yield
    assert len(engine.client.generate(ask(None, num=3)).choices[0].ids) == 3


def test_an_adapter_that_is_not_there_is_refused(engine: UnderTest) -> None:
    with pytest.raises(NotFoundError, match="no adapter"):
        engine.client.prepare("sha256:" + "ab" * 32, "test")


def test_an_adapter_that_is_not_resident_does_not_answer(engine: UnderTest) -> None:
    with pytest.raises(NotFoundError, match="not resident"):
        engine.client.generate(ask(engine.company.adapters[0]))
    with pytest.raises(NotFoundError, match="not resident"):
        engine.client.score(engine.company.adapters[0], [[1, 2, 3]])


@pytest.mark.parametrize("damage", ["flipped", "truncated"])
def test_an_adapter_whose_bytes_are_others_is_refused(engine: UnderTest, damage: str) -> None:
    home, adapter = engine.company.home, engine.company.adapters[3]
    weights = home.adapter(adapter) / WEIGHTS
    kept = weights.with_name("kept")
    shutil.copy2(weights, kept)
    data = bytearray(weights.read_bytes())
    data[-1000] ^= 0x10
    weights.write_bytes(data if damage == "flipped" else data[:-1000])
    kept.rename(home.root / "kept")
    try:
        with pytest.raises(AdapterError):
            engine.client.prepare(adapter, "test")
        assert adapter not in engine.client.health().resident
    finally:
        (home.root / "kept").rename(weights)
    engine.prepare(adapter)
    assert adapter in engine.client.health().resident


def test_more_adapters_than_slots_are_refused(engine: UnderTest) -> None:
    for adapter in engine.company.adapters[:4]:
        engine.prepare(adapter)
    with pytest.raises(ConflictError, match="slots"):
        engine.client.prepare(engine.company.adapters[4], "test")
    engine.client.release(engine.company.adapters[0], "test")
    engine.prepare(engine.company.adapters[4])


def test_an_adapter_stays_while_somebody_else_holds_it(engine: UnderTest) -> None:
    adapter = engine.prepare(engine.company.adapters[0])
    engine.client.prepare(adapter, "other")
    assert engine.client.release(adapter, "test").freed == []
    assert len(engine.client.generate(ask(adapter, num=3)).choices[0].ids) == 3
    assert engine.client.release(None, "other").freed == [adapter]
    assert adapter not in engine.client.health().resident


def test_a_prompt_beyond_the_context_is_refused(engine: UnderTest) -> None:
    longest = int(engine.client.health().capabilities["context_length"])
    with pytest.raises(UsageError, match="the prompt has"):
        engine.client.generate(ask(None, prompt_ids=[5] * longest))
    assert engine.client.generate(ask(None, prompt_ids=[5] * (longest - 2), num=9)).choices[0].ids


def test_ids_that_the_base_does_not_have_are_refused(engine: UnderTest) -> None:
    if engine.name == "simulator":
        pytest.skip("it has no vocabulary")
    with pytest.raises(UsageError, match="is not one of this base's"):
        engine.client.generate(ask(None, prompt_ids=[1, 2, 100_000]))
    with pytest.raises(UsageError, match="is not one of this base's"):
        engine.client.score(None, [[1, 100_000]])


def test_a_schema_that_is_none_is_refused(engine: UnderTest) -> None:
    if engine.name == "simulator":
        pytest.skip("it says what its script says")
    with pytest.raises(UsageError):
        engine.client.generate(ask(None, json_schema='{"type": "river"}'))
