"""The three that benchmarks/engine.py compares: ours, transformers with PEFT, and vLLM's server.

Each gets the same work: prompts of ids, each for one of three adapters, decoded greedily and for
the same number of tokens.
"""

import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

CPU = torch.device("cpu")
RANK = 8
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_VLLM_STARTS_S = 300.0

Emit = Callable[..., None]


@dataclass(frozen=True)
class Work:
    """Prompts with their adapters; `batch` of them at a time."""

    prompts: list[list[int]]
    adapters: list[int]
    batch: int
    num_new: int

    @property
    def num_tokens(self) -> int:
        """Tokens that are decoded."""
        return len(self.prompts) * self.num_new

    def parts(self) -> Iterator[tuple[list[int], list[list[int]]]]:
        """What is decoded together: (adapters, prompts)."""
        for at in range(0, len(self.prompts), self.batch):
            part = slice(at, at + self.batch)
            yield self.adapters[part], self.prompts[part]


@dataclass(frozen=True)
class Built:
    """A base of random weights and three random adapters, on disk."""

    base: Path
    adapters: list[Path]


def build(
    folder: Path,
    shape: dict[str, int],
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
) -> Built:
    """Write them. No weight is trained: speed does not depend on what they say."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**shape, tie_word_embeddings=True, eos_token_id=None)  # type: ignore[arg-type]  # sizes only
    with device:
        base: Any = LlamaForCausalLM._from_config(config, dtype=dtype).eval()
    base.save_pretrained(folder / "base")
    _write_tokenizer(folder / "base", shape["vocab_size"])
    lora = LoraConfig(r=RANK, lora_alpha=16, target_modules=MODULES, task_type="CAUSAL_LM")
    adapters = [folder / f"adapter-{index}" for index in range(3)]
    for path in adapters:
        peft = get_peft_model(base, lora)
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)
        peft.save_pretrained(str(path))
        base = peft.unload()
    return Built(folder / "base", adapters)


def _write_tokenizer(base: Path, vocab_size: int) -> None:
    """One word per id: vLLM does not start without a tokenizer."""
    from tokenizers import Tokenizer, models

    words = {f"w{index}": index for index in range(vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))  # noqa: S106 - not a password
    tokenizer.save(str(base / "tokenizer.json"))
    (base / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')


@dataclass(frozen=True)
class Answered:
    """One answer of ours."""

    ids: list[int]
    logprobs: list[float]


class Ours:
    """The embedded engine, in this process; it also reports logprobs."""

    def __init__(
        self, built: Built, device: torch.device = CPU, dtype: torch.dtype = torch.float32
    ) -> None:
        from appliance.core.adapters import content_digest
        from appliance.core.digests import digest_json
        from appliance.inference.adapter_files import read_adapter
        from appliance.inference.architecture import read_architecture
        from appliance.inference.engine import Engine
        from appliance.inference.model import Model
        from appliance.inference.weights import load_weights

        shape = read_architecture(built.base)
        base = digest_json(str(built.base))
        weights = load_weights(built.base, shape, device=device, dtype=dtype)
        self._engine = Engine(Model(shape, weights), max_batch=32, slots=4, cache_tokens=32768)
        self._digests = [content_digest(path, base) for path in built.adapters]
        for path, digest in zip(built.adapters, self._digests, strict=True):
            adapter = read_adapter(path, digest, base=base, shape=shape, dtype=dtype)
            self._engine.install(digest, adapter, "benchmark")

    def run(self, work: Work) -> None:
        """Decode it."""
        for adapters, prompts in work.parts():
            for adapter, prompt in zip(adapters, prompts, strict=True):
                self._add(adapter, prompt, work.num_new, 0.0, lambda *_: None)
            self._finish()

    def answer(self, asked: Sequence[tuple[int, list[int]]], count: int) -> list[Answered]:
        """Draw `count` tokens for each (adapter, prompt), all together, in two portions."""
        answers = [Answered([], []) for _ in asked]
        for index, (adapter, prompt) in enumerate(asked):

            def take(
                _: Any, __: int, token: int, logprob: float, *___: Any, to: int = index
            ) -> None:
                answers[to].ids.append(token)
                answers[to].logprobs.append(logprob)

            self._add(adapter, prompt, count, 1.0, take)
            if index == len(asked) // 3:
                for _ in range(5):
                    self._engine.step()
        self._finish()
        return answers

    def _add(
        self, adapter: int, prompt: list[int], count: int, temperature: float, take: Emit
    ) -> None:
        from appliance.engine.wire import Generate
        from appliance.inference.sequence import Stream

        request = Generate(
            prompt_ids=prompt,
            adapter=self._digests[adapter],
            max_tokens=count,
            temperature=temperature,
        )
        self._engine.add(Stream(request, sum(prompt), take, lambda *_: None))

    def _finish(self) -> None:
        while self._engine.busy:
            self._engine.step()


class Peft:
    """transformers' generate. With several adapters: a batch for each, or one that PEFT mixes."""

    def __init__(self, built: Built, device: torch.device, dtype: torch.dtype) -> None:
        from peft import PeftModel
        from transformers import LlamaForCausalLM

        base = LlamaForCausalLM.from_pretrained(built.base, dtype=dtype).to(device)
        model: Any = PeftModel.from_pretrained(base, str(built.adapters[0]), adapter_name="a0")
        for index, path in enumerate(built.adapters[1:], 1):
            model.load_adapter(str(path), adapter_name=f"a{index}")
        self._model = model.eval()

    def grouped(self, work: Work) -> None:
        """One batch per adapter."""
        for adapters, prompts in work.parts():
            for adapter in sorted(set(adapters)):
                self._model.set_adapter(f"a{adapter}")
                own = [p for a, p in zip(adapters, prompts, strict=True) if a == adapter]
                self._generate(own, work.num_new)

    def mixed(self, work: Work) -> None:
        """One batch, PEFT choosing the adapter row by row."""
        for adapters, prompts in work.parts():
            self._generate(prompts, work.num_new, adapter_names=[f"a{a}" for a in adapters])

    def _generate(self, prompts: list[list[int]], count: int, **more: Any) -> None:
        ids = torch.tensor(prompts, device=self._model.device)
        with torch.inference_mode():
            self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                pad_token_id=0,
                **more,
            )


class VllmServer:
    """vLLM's own server on a Unix socket: a request per adapter, with all its prompts."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def run(self, work: Work) -> None:
        """Decode it."""
        for adapters, prompts in work.parts():
            groups = [
                (a, [p for b, p in zip(adapters, prompts, strict=True) if a == b])
                for a in sorted(set(adapters))
            ]
            with ThreadPoolExecutor(len(groups)) as pool:
                list(pool.map(lambda group: self._complete(*group, work.num_new), groups))

    def _complete(self, adapter: int, prompts: list[list[int]], count: int) -> None:
        body = {
            "model": f"a{adapter}",
            "prompt": prompts,
            "max_tokens": count,
            "min_tokens": count,
            "ignore_eos": True,
            "temperature": 0,
            "detokenize": False,
        }
        answer = json.loads(self._ask("POST", "/v1/completions", json.dumps(body)))
        if answer["usage"]["completion_tokens"] != len(prompts) * count:
            raise RuntimeError(f"vLLM answered otherwise than asked: {answer['usage']}")

    def ready(self) -> bool:
        """Whether it answers."""
        try:
            self._ask("GET", "/health")
        except (OSError, RuntimeError, http.client.HTTPException):
            return False
        return True

    def _ask(self, method: str, path: str, body: str | None = None) -> bytes:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(str(self._path))
            connection.request(method, path, body, {"content-type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise RuntimeError(f"vLLM says {response.status}: {answer[:300]!r}")
        return answer


@contextmanager
def vllm_server(
    python: Path, built: Built, dtype: torch.dtype, *, threads: int
) -> Iterator[VllmServer]:
    """A server of its own; the same type of numbers as the others, and as many threads."""
    path, log = built.base.parent / "vllm.sock", built.base.parent / "vllm.log"
    names = [f"a{index}={folder}" for index, folder in enumerate(built.adapters)]
    command = [
        str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(built.base),
        "--uds", str(path), "--dtype", str(dtype).removeprefix("torch."), "--max-model-len", "1024",
        "--max-num-seqs", "32", "--enable-lora", "--max-loras", "3", "--max-lora-rank", str(RANK),
        "--lora-modules", *names, "--disable-uvicorn-access-log",
        *(["--enforce-eager"] if dtype == torch.float32 else ["--gpu-memory-utilization", "0.3"]),
    ]  # fmt: skip
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads),
    }
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        _wait(process, VllmServer(path), log)
        yield VllmServer(path)
    finally:
        process.terminate()
        process.wait(60)


def _wait(process: "subprocess.Popen[bytes]", server: VllmServer, log: Path) -> None:
    deadline = time.monotonic() + _VLLM_STARTS_S
    while not server.ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"vLLM does not start: {_end(log)}")
        time.sleep(0.5)


def _end(log: Path) -> str:
    lines: Sequence[str] = log.read_text(errors="replace").splitlines()[-15:]
    return "\n".join(lines)
