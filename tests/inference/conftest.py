"""A tiny random Llama, its oracle in transformers and PEFT, and adapters of it."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from appliance.core.adapters import content_digest
from appliance.core.digests import Digest
from appliance.core.home import Home
from appliance.engine.bases import Base, Registry
from appliance.engine.wire import Generate
from appliance.inference.adapter_files import read_adapter
from appliance.inference.architecture import read_architecture
from appliance.inference.engine import Engine, choose_seed
from appliance.inference.model import Model
from appliance.inference.sequence import Stream
from appliance.inference.vocabulary import Vocabulary
from appliance.inference.weights import load_weights

torch.set_num_threads(1)
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def _write_tokenizer(folder: Path, vocab_size: int) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["system user assistant " * 50], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LlamaForCausalLM]:
    """A folder as save_pretrained leaves it, and the model in transformers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.2,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config).eval()
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    _write_tokenizer(folder, config.vocab_size)
    return folder, model


@pytest.fixture
def base(home: Home, oracle: tuple[Path, LlamaForCausalLM]) -> Base:
    return Registry(home).add_directory(oracle[0], "tiny", "test")


def adapted(model: LlamaForCausalLM, seed: int, *, rank: int = 4) -> Any:
    """A PEFT model over a copy of `model`, with random weights on both sides of every LoRA."""
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=MODULES, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 for a name that it renamed.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
        peft = get_peft_model(copy.eval(), config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            parameter.data = 0.15 * torch.randn(parameter.shape, generator=generator)
    return peft.eval()


MakeAdapter = Callable[..., tuple[Digest, Any]]


@pytest.fixture
def make_adapter(home: Home, base: Base, oracle: tuple[Path, LlamaForCausalLM]) -> MakeAdapter:
    """make_adapter(seed, rank=…, change=…) → its digest in the home, and the PEFT model of it.

    `change(weights, config)` may damage both before they are published.
    """

    def make(
        seed: int,
        *,
        rank: int = 4,
        change: Callable[[dict[str, torch.Tensor], dict[str, Any]], object] = lambda *_: None,
    ) -> tuple[Digest, Any]:
        peft = adapted(oracle[1], seed, rank=rank)
        work = home.adapters / f"work-{seed}-{rank}"
        peft.save_pretrained(work)
        weights = load_file(work / "adapter_model.safetensors")
        config = json.loads((work / "adapter_config.json").read_text())
        change(weights, config)
        save_file(weights, work / "adapter_model.safetensors")
        (work / "adapter_config.json").write_text(json.dumps(config))
        digest = content_digest(work, base.digest)
        work.rename(home.adapter(digest))
        return digest, peft

    return make


MakeEngine = Callable[..., Engine]


@pytest.fixture
def make_engine(base: Base) -> MakeEngine:
    """A fresh engine over the tiny base; keywords as Engine's."""
    shape = read_architecture(base.path)
    weights = load_weights(base.path, shape, device=torch.device("cpu"), dtype=torch.float32)

    def make(**changes: int) -> Engine:
        sizes = {"max_batch": 8, "slots": 3, "cache_tokens": 8192}
        vocabulary = Vocabulary.load(base.path, shape.vocab_size)
        return Engine(Model(shape, weights), **(sizes | changes), vocabulary=vocabulary)

    return make


@pytest.fixture
def install(home: Home, base: Base) -> Callable[[Engine, Digest], None]:
    """Make an adapter resident in an engine."""

    def act(engine: Engine, adapter: Digest) -> None:
        weights = read_adapter(
            home.adapter(adapter),
            adapter,
            base=base.digest,
            shape=engine.model.shape,
            dtype=torch.float32,
        )
        engine.install(adapter, weights, "test")

    return act


class Collected:
    """What an engine emitted for one request."""

    def __init__(self) -> None:
        self.ids: dict[int, list[int]] = {}
        self.logprobs: dict[int, list[float]] = {}
        self.top: dict[int, list[list[tuple[int, float]]]] = {}
        self.finish: dict[int, str] = {}
        self.error: Exception | None = None
        self.stream: Stream

    def emit(
        self,
        _: Stream,
        choice: int,
        token: int,
        logprob: float,
        top: list[tuple[int, float]],
        finish: str,
    ) -> None:
        self.ids.setdefault(choice, []).append(token)
        self.logprobs.setdefault(choice, []).append(logprob)
        self.top.setdefault(choice, []).append(top)
        self.finish[choice] = finish

    def fail(self, _: Stream, error: Exception) -> None:
        self.error = error


Submit = Callable[..., Collected]


@pytest.fixture
def submit() -> Submit:
    """submit(engine, prompt_ids, **fields of Generate) → what comes, once the engine steps."""

    def act(engine: Engine, prompt_ids: list[int], **fields: Any) -> Collected:
        request = Generate(prompt_ids=prompt_ids, **({"seed": 1, "temperature": 0.0} | fields))
        collected = Collected()
        stops = frozenset(request.stop_ids)
        stream = Stream(request, choose_seed(request), collected.emit, collected.fail, stops)
        stream.rules = engine.rules(request)
        collected.stream = stream
        engine.add(stream)
        return collected

    return act


@pytest.fixture
def run() -> Callable[[Engine], int]:
    """Step until nothing is left; returns the number of steps."""

    def act(engine: Engine) -> int:
        steps = 0
        while engine.busy:
            engine.step()
            steps += 1
            assert steps < 5000, "the engine does not come to an end"
        return steps

    return act
