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
import sqlalchemy as sa
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from appliance.core.adapters import CONFIG, RECORD, WEIGHTS, content_digest
from appliance.core.database import Database
from appliance.core.digests import Digest, digest_bytes, digest_json
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.open_log import open_log
from appliance.core.records import Adapter, Approval, Event, Probe, Turn, convert, decode, encode
from appliance.core.settings import Settings
from appliance.core.tables import adapters as adapters_table
from appliance.core.tables import approvals, rounds, users
from appliance.engine.bases import Base, Registry
from appliance.engine.template import Template
from serving.adapter_shapes import linear_layers
from serving.keys import Key, add_key
from tests.serving.engine_simulator import EngineSimulator, score

ROOT = Path(__file__).parents[2]
ALIAS = "company-model"
SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
}
GATES = """
schema = "gates/1"
name = "test"
quorum = 2
[[gate]]
name = "target"
kind = "target"
metric = "lower_95"
op = ">"
threshold = 0.0
"""


def register_base(home: Home, scratch: Path) -> Base:
    folder = scratch / "model"
    folder.mkdir()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: at for at, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": len(vocabulary),
        "max_position_embeddings": 2048,
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
        store = ObjectStore(self.home.objects)
        work = self.home.adapters / f".work{seed}"
        content = write_adapter(work, self.base.digest, seed)
        ids = [[1, 5, 9, 13, 17, 21], [2, 4, 8, 16, 32]]
        probe = Probe(
            ids=tuple(map(tuple, ids)),
            logprobs=tuple(tuple(score(content, row)) for row in ids),
            base_logprobs=tuple(tuple(score(None, row)) for row in ids),
        )
        record = Adapter(
            content=content,
            base=self.base.digest,
            parent=None,
            dataset=digest_bytes(b"dataset"),
            recipe=digest_bytes(b"recipe"),
            rank=4,
            alpha=8,
            target_modules=("q_proj",),
            seed=seed,
            num_threads=1,
            versions={},
            probe=store.put(encode(probe)),
            metrics={},
        )
        (work / RECORD).write_bytes(encode(record))
        work.rename(self.home.adapter(content))
        with self.database.write() as connection:
            number = connection.scalar(sa.select(sa.func.count()).select_from(adapters_table))
            connection.execute(
                sa.insert(adapters_table).values(
                    content=content, number=number + 1, base=record.base, parent=None,
                    dataset=record.dataset, label=label, record=encode(record).decode(),
                    created_at=1.0,
                )
            )  # fmt: skip
        return content

    def add_round(
        self, adapter: Digest, *, approvers: tuple[str, ...] = ("ada", "ben"), author: str = "cid"
    ) -> tuple[int, list[Digest]]:
        """A round that made this adapter, and what these people decided about it."""
        scorecard = digest_bytes(f"scorecard of {adapter}".encode())
        with self.database.write() as connection:
            number = connection.execute(
                sa.insert(rounds).values(
                    state="releasing", reason="", authors=json.dumps([author]),
                    order=json.dumps({"gates": self.gates}), adapter=adapter, scorecard=scorecard,
                    lease_until=0.0, fencing=0, created_at=1.0, changed_at=1.0,
                )
            ).inserted_primary_key[0]  # fmt: skip
        cast = [self.approve(number, adapter, name, scorecard) for name in approvers]
        return number, cast

    def approve(
        self,
        number: int,
        adapter: Digest,
        name: str,
        scorecard: Digest,
        decision: str = "approve",
        at: float | None = None,
    ) -> Digest:
        approval = Approval(
            round=number,
            adapter=adapter,
            scorecard=scorecard,
            order=digest_json({"gates": self.gates}),
            approver=name,
            decision=decision,
            comment="",
            at=time.time() - 1 if at is None else at,
        )
        with self.database.write() as connection:
            person = {"name": name, "role": "approver", "passphrase_hash": "", "created_at": 0.0}
            connection.execute(sa.insert(users).prefix_with("OR IGNORE").values(person))
            connection.execute(
                sa.insert(approvals).values(
                    digest=approval.digest, round=number, adapter=adapter, approver=name,
                    record=encode(approval).decode(),
                )
            )  # fmt: skip
        return approval.digest

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
        import http.client
        import socket

        connection = http.client.HTTPConnection("serving", timeout=20)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(str(self._home.socket("serving")))
            connection.request(method, route, json.dumps(body) if body is not None else None)
            answer = connection.getresponse()
            value = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status >= 400:
            raise RuntimeError(answer.status, value["error"]["message"], value)
        return value

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
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    scratch = tmp_path_factory.mktemp("appliance")
    home = Home(scratch / "home")
    home.create()
    base = register_base(home, scratch)
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


def say(text: str, delay_s: float = 0.0) -> list[dict[str, str]]:
    """Messages that make the simulator say this."""
    return [{"role": "user", "content": "say:" + json.dumps({"text": text, "delay_s": delay_s})}]
