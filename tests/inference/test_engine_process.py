"""The engine as it runs: a process of its own, and its clients on a real Unix socket."""

import asyncio
import os
import socket
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from appliance.core.digests import digest_json
from appliance.core.errors import (
    AdapterError,
    ConflictError,
    NotFoundError,
    RecordError,
    UnavailableError,
    UsageError,
)
from appliance.core.home import Home
from appliance.engine.bases import Registry
from appliance.engine.client import AsyncEngine, Engine
from appliance.engine.wire import Generate

SETTINGS = '[engine]\nbase = "tiny"\nthreads = 1\nslots = 2\nmemory_mib = 64\nmax_batch = 16\n'


def serve(home):
    command = [sys.executable, "-m", "appliance.inference", "serve", "--home", str(home.root)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def start(home):
    with socket.socket(socket.AF_UNIX) as dead:
        # What an engine that was killed leaves behind.
        dead.bind(str(home.socket("engine")))
    process = subprocess.Popen(
        [sys.executable, "-m", "appliance.inference", "serve", "--home", str(home.root)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    client = Engine(home.socket("engine"))
    while not answers(client):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline, "the engine does not start"
        time.sleep(0.05)
    return process


def answers(client):
    try:
        return bool(client.health().base)
    except UnavailableError:
        return False


@pytest.fixture(scope="module")
def served(tmp_path_factory, oracle):
    """One engine process for this file."""
    home = Home(tmp_path_factory.mktemp("served") / "home")
    home.create()
    base = Registry(home).add_directory(oracle[0], "tiny", "test")
    home.settings.write_text(SETTINGS)
    process = start(home)
    yield home, base
    process.terminate()
    assert process.wait(10) == 0
    process.stderr.close()
    assert not home.socket("engine").exists()


@pytest.fixture
def home(served):
    return served[0]


@pytest.fixture
def base(served):
    return served[1]


@pytest.fixture
def engine(home):
    client = Engine(home.socket("engine"))
    yield client
    client.release(None, "test")


def idle(engine):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        health = engine.health()
        if not health.running and not health.waiting:
            return True
        time.sleep(0.02)
    return False


def test_both_clients_get_the_same_answer(home, engine):
    request = Generate(prompt_ids=[5, 6, 7], n=2, max_tokens=20, temperature=0.8, seed=3)

    async def ask():
        async with AsyncEngine(home.socket("engine")) as client:
            return await client.generate(request)

    plain, evented = engine.generate(request), asyncio.run(ask())
    assert [c.ids for c in plain.choices] == [c.ids for c in evented.choices]
    assert [len(c.logprobs) for c in plain.choices] == [20, 20]
    assert (plain.choices[0].finish_reason, plain.prompt_tokens) == ("length", 3)
    assert evented.cached_tokens == 2


def test_it_says_since_when_people_are_quiet(engine):
    def quiet_s_in_mid_answer(priority):
        request = Generate(prompt_ids=[5, 6, 7], max_tokens=400, seed=3, priority=priority)
        lines = engine.stream(request)
        next(lines)
        try:
            return engine.health().people_quiet_s
        finally:
            lines.close()

    assert quiet_s_in_mid_answer("interactive") == 0
    assert idle(engine)
    time.sleep(0.05)
    assert quiet_s_in_mid_answer("batch") >= 0.05


def test_only_its_owner_may_open_the_socket(home):
    assert stat.S_IMODE(home.socket("engine").stat().st_mode) == 0o600


def test_health_says_what_it_can_do(engine, base):
    health = engine.health()
    assert health.base == base.digest
    assert health.rss_mib > 50
    assert health.capabilities["kind"] == "embedded"
    assert (health.capabilities["threads"], health.capabilities["slots"]) == (1, 2)
    assert health.capabilities["context_length"] == 512


def test_adapters_are_prepared_used_scored_and_released(engine, make_adapter):
    adapter, _ = make_adapter(1)
    request = Generate(prompt_ids=[5, 6, 7], adapter=adapter, max_tokens=8, temperature=0)
    with pytest.raises(NotFoundError, match="not resident"):
        engine.generate(request)
    engine.prepare(adapter, "test")
    answer = engine.generate(request).choices[0]
    scores = engine.score(adapter, [[5, 6, 7, *answer.ids]])[0]
    assert scores[2:] == pytest.approx(answer.logprobs, abs=1e-4)
    assert engine.score(None, [[5, 6, 7, *answer.ids]])[0] != pytest.approx(scores, abs=1e-2)
    assert engine.release(adapter, "test").freed == [adapter]
    with pytest.raises(NotFoundError):
        engine.score(adapter, [[5, 6]])


def test_many_versions_answer_together(engine, make_adapter):
    adapters = [None, make_adapter(2)[0], make_adapter(3)[0]]
    for adapter in adapters[1:]:
        engine.prepare(adapter, "test")
    requests = [
        Generate(prompt_ids=[9, index], adapter=adapter, max_tokens=12, seed=index)
        for index in range(8)
        for adapter in adapters
    ]
    together = engine.generate_many(requests, concurrency=24)
    alone = engine.generate_many(requests, concurrency=1)
    assert [g.choices[0].ids for g in together] == [g.choices[0].ids for g in alone]


def test_a_full_engine_takes_no_third_adapter(engine, make_adapter):
    first, second, third = (make_adapter(seed)[0] for seed in (4, 5, 6))
    engine.prepare(first, "test")
    engine.prepare(second, "test")
    engine.prepare(second, "test")
    with pytest.raises(ConflictError, match="held by test"):
        engine.prepare(third, "test")
    engine.release(first, "test")
    engine.prepare(third, "test")
    assert engine.health().resident == [second, third]


def test_an_adapter_in_use_is_freed_when_its_answers_end(engine, make_adapter):
    adapter, _ = make_adapter(7)
    engine.prepare(adapter, "test")
    lines = engine.stream(Generate(prompt_ids=[5], adapter=adapter, max_tokens=400, seed=1))
    next(lines)
    assert engine.release(adapter, "test").deferred == [adapter]
    received = 1 + sum(len(line.ids) for line in lines)
    assert received > 300
    assert adapter not in engine.health().resident


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"adapter": digest_json("nobody made this")}, NotFoundError),
        ({"adapter": "../../etc"}, RecordError),
    ],
)
def test_adapters_that_are_not_there(engine, body, error):
    with pytest.raises(error):
        engine.prepare(body["adapter"], "test")


def test_a_damaged_adapter_keeps_its_reason_on_the_wire(engine, home, make_adapter):
    adapter, _ = make_adapter(8)
    path = home.adapter(adapter) / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(AdapterError) as refusal:
        engine.prepare(adapter, "test")
    assert refusal.value.reason == "digest_mismatch"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt_ids": [5] * 512}, "512 tokens"),
        ({"prompt_ids": []}, "length >= 1"),
        ({"prompt_ids": [999]}, "id 999"),
        ({"prompt_ids": [5], "temperature": -1.0}, "temperature"),
    ],
)
def test_impossible_requests_get_a_message(engine, fields, message):
    with pytest.raises(UsageError, match=message):
        engine.generate(Generate(**fields))


def test_stop_texts_and_schemas_go_over_the_socket(engine):
    free = engine.generate(Generate(prompt_ids=[5, 6, 7], max_tokens=20, seed=3)).choices[0]
    schema = '{"type": "array", "items": {"type": "boolean"}, "maxItems": 2}'
    met = engine.generate(
        Generate(prompt_ids=[5, 6, 7], max_tokens=40, seed=3, stop_ids=[2], json_schema=schema)
    ).choices[0]
    assert met.finish_reason == "stop"
    assert met.ids[-1] == 2
    assert met.ids != free.ids[: len(met.ids)]
    stops = [chr(code) for code in range(ord("a"), ord("z") + 1)][:16]
    ended = engine.generate(
        Generate(prompt_ids=[5, 6, 7], max_tokens=500, seed=3, stops=stops)
    ).choices[0]
    assert ended.finish_reason == "stop"
    with pytest.raises(UsageError, match="cannot be met: Invalid type"):
        engine.generate(Generate(prompt_ids=[5], json_schema='{"type": "strin"}'))


def test_generation_stops_when_the_client_leaves(engine):
    before = engine.health().tokens_generated
    lines = engine.stream(Generate(prompt_ids=[5], n=8, max_tokens=500, seed=1))
    next(lines)
    lines.close()
    assert idle(engine)
    assert engine.health().tokens_generated - before < 8 * 400


def test_a_cancelled_task_stops_generation_too(home, engine):
    async def leave():
        async with AsyncEngine(home.socket("engine")) as client:
            begun = asyncio.Event()

            async def read():
                request = Generate(prompt_ids=[5], n=8, max_tokens=500, seed=1)
                async for _ in client.stream(request):
                    begun.set()

            task = asyncio.ensure_future(read())
            await begun.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    before = engine.health().tokens_generated
    asyncio.run(leave())
    assert idle(engine)
    assert engine.health().tokens_generated - before < 8 * 400


def test_interactive_work_does_not_wait_for_batch_work(engine):
    backlog = [
        Generate(prompt_ids=[7, i], max_tokens=400, seed=i, priority="batch") for i in range(64)
    ]
    with ThreadPoolExecutor(1) as pool:
        background = pool.submit(engine.generate_many, backlog, concurrency=64)
        while engine.health().waiting < 20:
            time.sleep(0.01)
        engine.generate(Generate(prompt_ids=[5, 6], max_tokens=4))
        assert engine.health().waiting > 0, "it came after all batch work"
        answers = background.result(60)
    assert {len(a.choices[0].ids) for a in answers} == {400}


def test_a_burst_of_clients_is_answered(home):
    async def burst():
        async with AsyncEngine(home.socket("engine")) as client:
            requests = [Generate(prompt_ids=[3, i], max_tokens=2, seed=i) for i in range(250)]
            return await asyncio.gather(*(client.generate(request) for request in requests))

    assert len(asyncio.run(burst())) == 250


def test_a_second_engine_leaves_the_first_its_socket(home, engine):
    ended = serve(home)
    assert ended.returncode == 6
    assert "already serves" in ended.stderr
    assert engine.health().running == 0


def test_what_cannot_be_served_is_said_before_torch_is_loaded(tmp_path):
    empty = Home(tmp_path / "empty")
    empty.create()
    ended = serve(empty)
    assert ended.returncode == 2
    assert "no base 'tiny'" in ended.stderr
    assert "next: espalier base" in ended.stderr
