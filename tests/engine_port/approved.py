"""A home with a base and adapters that two people have approved, and its engine and gateway as
processes: what the swap benchmark and the storm of swaps act on.
"""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from safetensors.numpy import save
from transformers import AutoModelForCausalLM

from appliance.core.adapters import CONFIG, WEIGHTS
from appliance.core.database import Database
from appliance.core.digests import Digest
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.records import Probe
from appliance.engine.bases import Base
from appliance.engine.client import Engine
from serving.adapter_check import base_config
from serving.adapter_shapes import linear_layers
from serving.keys import add_key
from tests.serving.leavings import GATES, add_round, call, publish_adapter

_START_TIMEOUT_S = 900.0


class ApprovedHome:
    """One home; processes are started and ended by name: `engine` and `serving`."""

    def __init__(self, home: Home, base: Base, kind: str, settings: dict[str, str]) -> None:
        """settings: more environment for the processes, e.g. ``ESPALIER__VLLM__PYTHON``."""
        home.create()
        self.home, self.base, self.kind = home, base, kind
        self.database = Database.open(home.database)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._gates = ObjectStore(home.objects).put(GATES.encode())
        self._environment = {
            **os.environ,
            "ESPALIER__GATEWAY__PORT": "0",
            "ESPALIER__ENGINE__KIND": kind,
            "ESPALIER__ENGINE__BASE": base.name,
            "ESPALIER__ENGINE__DEVICE": "cpu",
            "ESPALIER__ENGINE__THREADS": "1",
            **settings,
        }

    # --- adapters and what people said of them ----------------------------------------------------

    def add_adapter(self, seed: int, *, rank: int = 8, scale: float = 0.05) -> Digest:
        """A random adapter with everything that a trainer leaves, its probe from PEFT itself."""
        work = self.home.adapters / f".work{seed}"
        work.mkdir(parents=True)
        noise = np.random.default_rng(seed)
        tensors = {}
        for layer, (inputs, outputs) in linear_layers(base_config(self.base.path)).items():
            for side, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
                name = f"base_model.model.{layer}.lora_{side}.weight"
                tensors[name] = (noise.normal(size=shape) * scale).astype(np.float32)
        (work / WEIGHTS).write_bytes(save(tensors))
        config = {
            "peft_type": "LORA", "base_model_name_or_path": self.base.digest, "r": rank,
            "lora_alpha": 2 * rank, "bias": "none", "task_type": "CAUSAL_LM",
            "target_modules": sorted({n.rpartition(".")[2] for n in linear_layers(
                base_config(self.base.path))}),
        }  # fmt: skip
        (work / CONFIG).write_text(json.dumps(config))
        probe = self._probe(work)
        return publish_adapter(
            self.home, self.database, self.base.digest, work, probe,
            seed=seed, rank=rank, alpha=2 * rank,
        )  # fmt: skip

    def add_round(self, adapter: Digest) -> tuple[int, list[Digest]]:
        """A round that made it, approved by two people."""
        return add_round(self.database, self._gates, adapter)

    def add_key(self) -> str:
        """A key that may address exact versions."""
        secret, _ = add_key(
            self.database, team="t", project="p", agent="a", label="internal", exact=True,
            actor="storm",
        )  # fmt: skip
        return secret

    @torch.inference_mode()
    def _probe(self, folder: Path) -> Probe:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = AutoModelForCausalLM.from_pretrained(self.base.path, dtype=torch.float32)
            rows = [[1, 5, 9, 13, 17, 21, 40, 41], [2, 4, 8, 16, 32, 64, 128]]
            plain = [_logprobs(model, row) for row in rows]
            adapted = PeftModel.from_pretrained(model, str(folder)).eval()
            logprobs = [_logprobs(adapted, row) for row in rows]
        return Probe(
            ids=tuple(map(tuple, rows)), logprobs=tuple(logprobs), base_logprobs=tuple(plain)
        )

    # --- processes --------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start `engine` or `serving`; `wait_until_ready` says when it answers."""
        engine = "appliance.engine.vllm" if self.kind == "vllm" else "appliance.inference"
        module = engine if name == "engine" else "serving"
        self.home.process_logs.mkdir(parents=True, exist_ok=True)
        with (self.home.process_logs / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", module, "serve", "--home", str(self.home.root)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
            )

    def kill(self, name: str) -> None:
        """``kill -9``."""
        self.processes[name].kill()
        self.processes[name].wait()

    def stop(self) -> None:
        """End what runs, the gateway first."""
        for name in ("serving", "engine"):
            if (child := self.processes.get(name)) is not None and child.poll() is None:
                child.send_signal(signal.SIGTERM)
                child.wait(60)
        self.database.close()

    def wait_until_ready(self) -> str:
        """The gateway's address, once the alias can be served."""
        return self.wait_for(lambda health: True)

    def wait_for(self, good: Callable[[Any], bool]) -> str:
        """The gateway's address, once it is ready and `good` is true of its engine's health."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        problem: object = ""
        while time.monotonic() < deadline:
            for name, child in self.processes.items():
                if child.poll() is not None:
                    raise RuntimeError(f"{name} ended with {child.returncode}: {self._log(name)}")
            try:
                health = self.admin("GET", "/health")
                if good(self.engine.health()):
                    host, port = health["gateway"]
                    return f"http://{host}:{port}"
            except Exception as error:
                problem = error
            time.sleep(0.05)
        raise RuntimeError(f"not ready: {problem}; {self._log('serving')}")

    @property
    def engine(self) -> Engine:
        """A client of its engine."""
        return Engine(self.home.socket("engine"))

    def admin(self, method: str, route: str, body: Any = None) -> Any:
        """One call of the gateway's private API; a refusal is a RuntimeError with its body."""
        return call(self.home, method, route, body)

    def release(self, number: int, adapter: Digest, cast: list[Digest]) -> Any:
        """Move the alias to an approved adapter."""
        body = {
            "round": number,
            "adapter": adapter,
            "expected_generation": self.admin("GET", "/releases")["generation"],
            "approvals": cast,
            "actor": "storm",
        }
        return self.admin("POST", "/release", body)

    def _log(self, name: str) -> str:
        return (self.home.process_logs / f"{name}.log").read_text(errors="replace")[-2000:]


def _logprobs(model: Any, ids: list[int]) -> tuple[float, ...]:
    logits = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return tuple(logits[range(len(ids) - 1), ids[1:]].tolist())
