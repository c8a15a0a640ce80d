"""What a version is: an adapter that stays what it was for every request that began with it."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from appliance.core.errors import AdapterError
from appliance.engine.client import Choice, Generation
from appliance.engine.wire import Generate
from serving.probe import TOLERANCE as PROBE_TOLERANCE
from serving.probe import require_proof
from tests.engine_port.checks import ask, gaps, require_one_version
from tests.engine_port.engines import UnderTest


def test_a_prepared_version_answers_as_its_trainer_says(engine: UnderTest) -> None:
    for adapter in [None, engine.prepare(engine.company.adapters[0])]:
        rows = [list(row) for row in engine.company.probes[engine.company.noop].ids]
        for row, said in zip(rows, engine.client.score(adapter, rows), strict=True):
            assert said == pytest.approx(engine.expected(adapter, row), abs=engine.tolerance)


def test_a_stream_keeps_its_version_under_load_unload_and_rollback(engine: UnderTest) -> None:
    first, second, third = engine.company.adapters[:3]
    engine.prepare(first)
    request = ask(first, num=800)
    undisturbed = engine.client.generate(request).choices[0]

    def disturb() -> None:
        engine.prepare(second)
        assert engine.client.release(first, "test").deferred == [first]
        engine.prepare(third)
        engine.client.release(second, "test")
        engine.client.prepare(first, "other")  # a rollback

    answer, disturbed_at = _disturbed(engine, request, disturb)
    assert 0 < disturbed_at < len(answer.ids)
    assert answer.ids == undisturbed.ids
    assert answer.logprobs == pytest.approx(undisturbed.logprobs, abs=1e-3)
    require_one_version(engine.client, request, answer)


def test_no_completion_mixes_versions_while_others_come_and_go(engine: UnderTest) -> None:
    client, adapters = engine.client, engine.company.adapters
    served = [None, engine.prepare(adapters[0]), engine.prepare(adapters[1])]
    stop = threading.Event()

    def swap() -> int:
        count = 0
        while not stop.is_set():
            for adapter in adapters[2:4]:
                client.prepare(adapter, "other")
                client.release(adapter, "other")
                count += 1
        return count

    requests = [ask(served[n % 3], seed=n, num=40) for n in range(36)]
    with ThreadPoolExecutor(9) as pool:
        swaps = pool.submit(swap)
        answers = list(pool.map(client.generate, requests))
        stop.set()
        assert swaps.result() >= 4
    for request, answer in zip(requests, answers, strict=True):
        require_one_version(client, request, answer.choices[0])


def test_versions_of_one_batch_are_told_apart(engine: UnderTest) -> None:
    first, second = map(engine.prepare, engine.company.adapters[:2])
    request = ask(first)
    answer = engine.client.generate(request).choices[0]
    assert min(gaps(engine.client, request, answer, first)) <= 1e-3
    assert max(gaps(engine.client, request, answer, second)) > 0.1
    assert max(gaps(engine.client, request, answer, None)) > 0.1


def test_an_adapter_without_effect_is_refused_before_traffic(engine: UnderTest) -> None:
    noop = engine.prepare(engine.company.noop)
    with pytest.raises(AdapterError) as refusal:
        _prove(engine, served=noop, recorded=engine.company.adapters[0])
    assert refusal.value.reason == "probe_mismatch"


def test_a_wrong_adapter_is_refused_before_traffic(engine: UnderTest) -> None:
    if engine.name == "simulator":
        pytest.skip("it has no weights that could be wrong by themselves")
    wrong, right = map(engine.prepare, engine.company.adapters[:2])
    with pytest.raises(AdapterError) as refusal:
        _prove(engine, served=wrong, recorded=right)
    assert refusal.value.reason == "probe_mismatch"
    assert _prove(engine, served=right, recorded=right)["trainer"] < 1e-3


def test_a_proof_asks_every_replica(engine: UnderTest) -> None:
    adapter = engine.prepare(engine.company.adapters[0])
    rows = [[1, 5, 9, 13]]
    every = engine.client.score(adapter, rows, every_replica=True)
    assert every[0] == pytest.approx(engine.client.score(adapter, rows)[0], abs=1e-3)


def _prove(engine: UnderTest, *, served: str, recorded: str) -> dict[str, float]:
    probe = engine.company.probes[recorded]
    rows = [list(row) for row in probe.ids]
    return require_proof(
        probe,
        engine.client.score(served, rows, every_replica=True),
        base=engine.client.score(None, rows, every_replica=True),
        champion=None,
        tolerance=PROBE_TOLERANCE["float32"],
    )


def _disturbed(
    engine: UnderTest, request: Generate, disturb: Callable[[], None]
) -> tuple[Choice, int]:
    """The answer, and how many of its tokens were out when the disturbance was over."""
    whole, over_at = Generation(choices=[Choice()]), -1
    with ThreadPoolExecutor(1) as pool:
        disturbing = None
        for line in engine.client.stream(request):
            whole.take(line)
            if disturbing is None and whole.choices[0].ids:
                disturbing = pool.submit(disturb)
            if disturbing is not None and disturbing.done() and over_at < 0:
                over_at = len(whole.choices[0].ids)
        assert disturbing is not None
        disturbing.result()
    return whole.choices[0], over_at
