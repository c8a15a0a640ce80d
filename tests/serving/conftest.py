"""A registered base with a byte-level tokenizer, adapters for it, a simulated engine, and the real
gateway as a process of its own.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from appliance.core.adapters import CONFIG, WEIGHTS, content_digest
from appliance.core.database import Database
from appliance.core.digests import Digest
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.open_log import open_log
from appliance.core.records import Event, Probe, Turn, convert, decode
from appliance.core.settings import Settings
from appliance.engine.bases import Base, Registry
from appliance.engine.template import Template
from serving.adapter_shapes import linear_layers
from serving.keys import Key, add_key
from tests.serving.engine_simulator import EngineSimulator, score
from tests.serving.leavings import (
    GATES,
    add_round,
    approve,
    call,
    publish_adapter,
    write_byte_tokenizer,
)

ROOT = Path(__file__).parents[2]
ALIAS = "company-model"
SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
}


def register_base(home: Home, scratch: Path, context_length: int = 2048) -> Base:
    folder = scratch / "model"
    folder.mkdir()
    vocabulary = write_byte_tokenizer(folder)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": len(vocabulary),
        "max_position_embeddings": context_length,
        "eos_token_id": vocabulary["<|im_end|>"],
        **SHAPE,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(safetensors({"a": np.zeros(4, "<f4")}))
    return Registry(home).add_directory(folder, "tiny", "made by a test")


def safetensors(tensors: dict[str, np.ndarray[Any, Any]]) -> bytes:
    header: dict[str, Any] = {}
    data = b""
    for name, tensor in tensors.items():
        raw = tensor.tobytes()
        kind = {"<f4": "F32", "<f2": "F16", "<u2": "BF16"}[tensor.dtype.str]
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def lora_tensors(seed: int, rank: int = 4) -> dict[str, np.ndarray[Any, Any]]:
    noise = np.random.default_rng(seed)
    tensors = {}
    for layer, (inputs, outputs) in linear_layers(SHAPE).items():
        for side, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
            name = f"base_model.model.{layer}.lora_{side}.weight"
            tensors[name] = noise.normal(size=shape).astype("<f4")
    return tensors


def lora_config(base: Digest, rank: int = 4) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": 8,
        "bias": "none",
        "use_dora": False,
        "modules_to_save": None,
        "init_lora_weights": True,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"],
    }


def write_adapter(folder: Path, base: Digest, seed: int = 0) -> Digest:
    folder.mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(safetensors(lora_tensors(seed)))
    (folder / CONFIG).write_text(json.dumps(lora_config(base)))
    return content_digest(folder, base)


@dataclass
class Appliance:
    """One home with everything that a gateway needs, and the means to look into it."""

    home: Home
    database: Database
    base: Base
    template: Template
    settings: Settings
    gates: Digest

    def add_adapter(self, seed: int, *, label: str = "internal") -> Digest:
        """What the trainer leaves behind: folder, record, probe, row."""
        work = self.home.adapters / f".work{seed}"
        content = write_adapter(work, self.base.digest, seed)
        ids = [[1, 5, 9, 13, 17, 21], [2, 4, 8, 16, 32]]
        probe = Probe(
            ids=tuple(map(tuple, ids)),
            logprobs=tuple(tuple(score(content, row)) for row in ids),
            base_logprobs=tuple(tuple(score(None, row)) for row in ids),
        )
        return publish_adapter(
            self.home, self.database, self.base.digest, work, probe,
            seed=seed, rank=4, alpha=8, label=label,
        )  # fmt: skip

    def add_round(
        self, adapter: Digest, *, approvers: tuple[str, ...] = ("ada", "ben"), author: str = "cid"
    ) -> tuple[int, list[Digest]]:
        """A round that made this adapter, and what these people decided about it."""
        return add_round(self.database, self.gates, adapter, approvers=approvers, author=author)

    def approve(
        self,
        number: int,
        adapter: Digest,
        name: str,
        scorecard: Digest,
        decision: str = "approve",
        at: float | None = None,
    ) -> Digest:
        return approve(self.database, self.gates, number, adapter, name, scorecard, decision, at)

    def add_key(self, *, exact: bool = False, label: str = "internal") -> tuple[str, Key]:
        return add_key(
            self.database, team="t", project="p", agent="a", label=label, exact=exact, actor="test"
        )

    def events(self) -> list[Event]:
        """Everything in the event log so far."""
        log = open_log(self.home, self.settings)
        try:
            found: list[Event] = []
            while entries := log.read("test", max_records=10_000, timeout_s=0.05):
                found += [decode(entry.value, Event) for entry in entries]
            return found
        finally:
            log.close()

    def turns(self, request_id: str) -> list[Turn]:
        """The turns of one request."""
        records = [event.record for event in self.events() if event.kind == "turn"]
        return [convert(r, Turn) for r in records if r.get("turn_id") == request_id]


class GatewayProcess:
    """``python -m serving serve``, and its private API."""

    def __init__(self, appliance: Appliance) -> None:
        self._home = appliance.home
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self) -> None:
        environment = {**os.environ, "ESPALIER__GATEWAY__PORT": "0", "PYTHONWARNINGS": "error"}
        with (self._home.process_logs / "serving.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serving", "serve", "--home", str(self._home.root)],
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=environment,
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                host, port = self.admin("GET", "/health")["gateway"]
            except (OSError, RuntimeError):
                time.sleep(0.05)
                continue
            self.url = f"http://{host}:{port}"
            return
        self.stop(signal.SIGKILL)
        raise AssertionError(self.log)

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(20)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def limit_file_size(self, size_bytes: int) -> int:
        """Let it write no file beyond this size, as on a full disk; returns the limit before."""
        assert self._process is not None
        before, hard = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (size_bytes, hard))
        return before

    @property
    def log(self) -> str:
        return (self._home.process_logs / "serving.log").read_text()

    def admin(self, method: str, route: str, body: Any = None) -> Any:
        """One call of the private API; a refusal is a RuntimeError with its body."""
        return call(self._home, method, route, body)

    def release(self, appliance: Appliance, adapter: Digest, **changes: Any) -> Any:
        """Approve and release an adapter."""
        number, cast = appliance.add_round(adapter)
        body = {
            "round": number,
            "adapter": adapter,
            "expected_generation": self.admin("GET", "/releases")["generation"],
            "approvals": cast,
            "actor": "test",
        }
        return self.admin("POST", "/release", {**body, **changes})


@pytest.fixture(scope="module")
def context_length() -> int:
    return 2048


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory, context_length: int) -> Iterator[Appliance]:
    scratch = tmp_path_factory.mktemp("appliance")
    home = Home(scratch / "home")
    home.create()
    base = register_base(home, scratch, context_length)
    database = Database.open(home.database)
    yield Appliance(
        home=home,
        database=database,
        base=base,
        template=Template.load(base.path),
        settings=Settings(),
        gates=ObjectStore(home.objects).put(GATES.encode()),
    )
    database.close()


@pytest.fixture(scope="module")
def engine(appliance: Appliance) -> Iterator[EngineSimulator]:
    path = appliance.home.socket("engine")
    with EngineSimulator(path, appliance.base.digest, appliance.template) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def gateway(appliance: Appliance, engine: EngineSimulator) -> Iterator[GatewayProcess]:
    process = GatewayProcess(appliance)
    process.start()
    yield process
    assert process.stop() == 0, process.log


@pytest.fixture(scope="module")
def client(appliance: Appliance, gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    """An agent that may address exact versions."""
    secret, _ = appliance.add_key(exact=True)
    wait_for_key(gateway, secret)
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=secret, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def adapters(appliance: Appliance) -> list[Digest]:
    return [appliance.add_adapter(seed) for seed in range(8)]


def wait_for_key(gateway: GatewayProcess, secret: str) -> None:
    """The gateway reads its keys again every second."""
    deadline = time.monotonic() + 5
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=secret, max_retries=0) as client:
        while time.monotonic() < deadline:
            try:
                client.models.list()
            except openai.AuthenticationError:
                time.sleep(0.1)
            else:
                return
    raise AssertionError("the gateway did not take the key")


def say(text: str, delay_s: float = 0.0, **script: Any) -> list[dict[str, str]]:
    """Messages that make the simulator say this."""
    script |= {"text": text, "delay_s": delay_s}
    return [{"role": "user", "content": "say:" + json.dumps(script)}]
