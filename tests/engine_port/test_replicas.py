"""vLLM's replicas as one engine: what one of them loses, the others hold, and it gets it back."""

import http.client
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from appliance.core.errors import EspalierError
from appliance.engine.wire import Health
from tests.engine_port.checks import ask, require_one_version
from tests.engine_port.conftest import NEEDS_VLLM
from tests.engine_port.engines import REPLICAS, UnderTest, wait_for

pytestmark = NEEDS_VLLM


def test_a_replica_that_is_killed_comes_back_with_its_adapters(vllm: UnderTest) -> None:
    adapter = vllm.prepare(vllm.company.adapters[0])
    _prove(vllm, adapter)
    os.kill(_server(vllm, 0), signal.SIGKILL)
    served = 0
    while _serving(vllm.client.health()) == REPLICAS:
        time.sleep(0.05)
    while _serving(vllm.client.health()) < REPLICAS:
        request = ask(adapter, seed=served, num=8)
        require_one_version(vllm.client, request, vllm.client.generate(request).choices[0])
        served += 1
    assert served > 3
    # Both answer for it now: what they say together is what each says.
    _prove(vllm, adapter)


def test_a_stream_on_a_replica_that_dies_ends_with_an_error(vllm: UnderTest) -> None:
    streams = [vllm.client.stream(ask(None, seed=n, num=900)) for n in range(REPLICAS)]
    for stream in streams:
        next(stream)
    os.kill(_server(vllm, 1), signal.SIGKILL)
    ends = []
    for stream in streams:
        try:
            ends.append(list(stream)[-1].done)
        except EspalierError as error:
            ends.append(error.message)
    assert ends.count(True) == REPLICAS - 1
    assert any("does not answer" in str(end) or "failed" in str(end) for end in ends)
    wait_for(vllm.client, None, lambda health: _serving(health) == REPLICAS, vllm.log)


def test_an_adapter_that_one_replica_refuses_is_on_none(vllm: UnderTest) -> None:
    adapter = vllm.company.adapters[2]
    folder = vllm.company.home.adapter(adapter)
    config = folder / "adapter_config.json"
    kept = config.read_bytes()
    config.write_bytes(kept.replace(b'"r": 4', b'"r": 64'))
    try:
        with pytest.raises(EspalierError):
            vllm.client.prepare(adapter, "test")
    finally:
        config.write_bytes(kept)
    assert adapter not in vllm.client.health().resident
    for index in range(REPLICAS):
        assert adapter.removeprefix("sha256:")[:16] not in _models(vllm, index)


@pytest.mark.parametrize(
    "path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/sleep", "/collective_rpc"]
)
def test_nothing_of_vllm_but_the_port_can_be_reached(vllm: UnderTest, path: str) -> None:
    connection = _connect(vllm.company.home.socket("engine"))
    connection.request("POST", path, body=b'{"lora_name": "x", "lora_path": "/etc"}')
    assert connection.getresponse().status == 404
    connection.close()


def test_only_the_owner_comes_near_a_replicas_socket(vllm: UnderTest) -> None:
    assert vllm.company.home.root.stat().st_mode & 0o077 == 0


def test_the_base_stays_the_base_when_every_slot_was_filled(vllm: UnderTest) -> None:
    """vLLM on a CPU answered for the base with the last slot's weights, in a mixed batch."""
    for adapter in vllm.company.adapters[:4]:
        vllm.prepare(adapter)
    served = [None, *vllm.company.adapters[:4]]
    requests = [ask(served[n % 5], seed=n) for n in range(10 * REPLICAS)]
    with ThreadPoolExecutor(len(requests)) as pool:
        answers = list(pool.map(vllm.client.generate, requests))
    for request, answer in zip(requests, answers, strict=True):
        require_one_version(vllm.client, request, answer.choices[0])


def _prove(vllm: UnderTest, adapter: str) -> None:
    rows = [list(row) for row in vllm.company.probes[adapter].ids]
    vllm.client.score(adapter, rows, every_replica=True)
    vllm.client.score(None, rows, every_replica=True)


def _serving(health: Health) -> int:
    return int(health.capabilities["replicas_serving"])


def _server(vllm: UnderTest, index: int) -> int:
    """The process of a replica's API server: the one whose command names its socket."""
    path = str(vllm.company.home.socket(f"vllm-{index}")).encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if path in words and b"appliance.engine.vllm.watcher" not in words:
            return int(folder.name)
    raise AssertionError(f"replica {index} does not run")


def _models(vllm: UnderTest, index: int) -> str:
    connection = _connect(vllm.company.home.socket(f"vllm-{index}"))
    connection.request("GET", "/v1/models")
    models = msgspec.json.decode(connection.getresponse().read())
    connection.close()
    return " ".join(model["id"] for model in models["data"])


def _connect(path: Path) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("engine", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    return connection
