"""The three engines, each as its users meet it: a socket in a home."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from appliance.core.digests import Digest
from appliance.core.errors import EspalierError
from appliance.engine.client import Engine
from appliance.engine.template import Template
from appliance.engine.wire import Health
from tests.engine_port.company import Company, make_company
from tests.services.vllm import bring_vllm
from tests.serving import engine_simulator
from tests.serving.engine_simulator import EngineSimulator

MAX_BATCH = 8
REPLICAS = 2
START_TIMEOUT_S = 600.0


@dataclass
class UnderTest:
    """One engine that runs."""

    name: str
    client: Engine
    company: Company
    expected: Callable[[Digest | None, list[int]], list[float]]
    """What the trainer says about an adapter and a row."""
    tolerance: float
    """Largest difference of one logprob between engine and trainer, in nats."""
    log: Path | None = None
    held: list[Digest] = field(default_factory=list)

    def prepare(self, adapter: Digest) -> Digest:
        """Prepare for the test; given back after it."""
        self.client.prepare(adapter, "test")
        self.held.append(adapter)
        return adapter

    def give_back(self) -> None:
        for holder in ("test", "other"):
            self.client.release(None, holder)
        self.held.clear()


@contextmanager
def simulator(folder: Path) -> Iterator[UnderTest]:
    company = make_company(folder)
    path = company.home.socket("engine")
    simulated = EngineSimulator(path, company.base.digest, Template.load(company.base.path))
    simulated.folder_of = company.home.adapter
    simulated.noop = {company.noop}
    simulated.draws = True
    simulated.context_length = 1023

    def expected(adapter: Digest | None, row: list[int]) -> list[float]:
        return engine_simulator.score(adapter, row)

    with simulated:
        yield UnderTest("simulator", Engine(path), company, expected, tolerance=1e-6)


@contextmanager
def embedded(folder: Path) -> Iterator[UnderTest]:
    company = make_company(folder)
    with _process(company, "appliance.inference", {}) as under_test:
        yield under_test


@contextmanager
def vllm(folder: Path) -> Iterator[UnderTest]:
    settings = {
        "ESPALIER__ENGINE__KIND": "vllm",
        "ESPALIER__ENGINE__MEMORY_MIB": "1024",
        "ESPALIER__VLLM__PYTHON": str(bring_vllm()),
        "ESPALIER__VLLM__REPLICAS": str(REPLICAS),
        "ESPALIER__VLLM__MAX_RANK": "8",
    }
    with _process(make_company(folder), "appliance.engine.vllm", settings) as under_test:
        yield under_test


@contextmanager
def _process(company: Company, module: str, settings: dict[str, str]) -> Iterator[UnderTest]:
    environment = {
        **os.environ,
        "ESPALIER__ENGINE__BASE": "random",
        "ESPALIER__ENGINE__DEVICE": "cpu",
        "ESPALIER__ENGINE__THREADS": "1",
        "ESPALIER__ENGINE__MAX_BATCH": str(MAX_BATCH),
        **settings,
    }
    log = company.home.process_logs / "engine.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", module, "serve", "--home", str(company.home.root)],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    client = Engine(company.home.socket("engine"))
    probes = company.probes
    try:
        wait_for(client, child, lambda health: _replicas_up(health), log)

        def expected(adapter: Digest | None, row: list[int]) -> list[float]:
            probe = probes[adapter or company.noop]
            return list(probe.logprobs[probe.ids.index(tuple(row))])

        name = "vllm" if "vllm" in module else "embedded"
        yield UnderTest(name, client, company, expected, tolerance=2e-4, log=log)
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(30)


def _replicas_up(health: Health) -> bool:
    facts = health.capabilities
    return facts.get("replicas_serving", facts.get("replicas")) == facts.get("replicas")


def wait_for(
    client: Engine,
    child: "subprocess.Popen[bytes] | None",
    good: Callable[[Health], bool],
    log: Path | None,
) -> Health:
    """The engine's health, once it is good."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            health = client.health()
            if good(health):
                return health
        except EspalierError:
            pass
        assert child is None or child.poll() is None, log and log.read_text()[-3000:]
        time.sleep(0.1)
    raise AssertionError(f"not in {START_TIMEOUT_S} s: {log and log.read_text()[-3000:]}")
