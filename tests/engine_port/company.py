"""A home with a random base and adapters of it, and what their trainer would have written down."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from appliance.core.adapters import CONFIG, FILES, content_digest
from appliance.core.digests import Digest
from appliance.core.home import Home
from appliance.core.records import Probe
from appliance.engine.bases import Base, Registry
from tests.serving.leavings import write_byte_tokenizer

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PROBE_IDS = [[1, 5, 9, 13, 17, 21, 40, 41, 42], [2, 4, 8, 16, 32, 64, 128]]
NUM_ADAPTERS = 5
STOP = 2
"""The id that ends a turn of this base."""


@dataclass(frozen=True)
class Company:
    """One home and the truth about what is in it."""

    home: Home
    base: Base
    adapters: list[Digest]
    probes: dict[Digest, Probe]
    noop: Digest
    """An adapter whose every B is zero."""


def make_company(folder: Path) -> Company:
    """Everything random, from seeds; float32, so that engines can be compared closely."""
    home = Home(folder / "home")
    home.create()
    model = _model()
    base = register(home, folder / "model", model)
    base_logprobs = _logprobs(model)
    adapters, probes = [], {}
    for seed in range(NUM_ADAPTERS + 1):
        adapted = _adapted(seed, noop=seed == NUM_ADAPTERS)
        digest = _put(home, base, folder / f"adapter{seed}", adapted)
        adapters.append(digest)
        probes[digest] = Probe(
            ids=tuple(map(tuple, PROBE_IDS)),
            logprobs=_logprobs(adapted),
            base_logprobs=base_logprobs,
        )
    return Company(home, base, adapters[:-1], probes, adapters[-1])


def register(home: Home, folder: Path, model: LlamaForCausalLM) -> Base:
    """Save a model with a tokenizer of bytes, and register it as `random`."""
    model.save_pretrained(folder)
    write_byte_tokenizer(folder)
    return Registry(home).add_directory(folder, "random", "random weights")


def random_model(**shape: int) -> LlamaForCausalLM:
    """Random weights from a fixed seed; ids are bytes and three special tokens."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=259, tie_word_embeddings=True, initializer_range=0.2, eos_token_id=STOP, **shape
    )
    return LlamaForCausalLM(config).eval()


def _model() -> LlamaForCausalLM:
    return random_model(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
    )


def _adapted(seed: int, *, noop: bool) -> Any:
    config = LoraConfig(r=4, lora_alpha=8, target_modules=MODULES, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(_model(), config)
    generator = torch.Generator().manual_seed(seed + 1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            noise = torch.randn(parameter.shape, generator=generator) * 0.15
            parameter.data.copy_(noise * (0 if noop and "lora_B" in name else 1))
    return adapted.eval()


def _put(home: Home, base: Base, folder: Path, adapted: Any) -> Digest:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted.save_pretrained(folder)
    for file in folder.iterdir():
        if file.name not in FILES:
            file.unlink()
    config = json.loads((folder / CONFIG).read_text())
    config["base_model_name_or_path"] = base.digest
    (folder / CONFIG).write_text(json.dumps(config))
    digest = content_digest(folder, base.digest)
    folder.rename(home.adapter(digest))
    return digest


@torch.inference_mode()
def _logprobs(model: Any) -> tuple[tuple[float, ...], ...]:
    """As the trainer writes a probe: a plain forward pass in float32."""
    rows = []
    for ids in PROBE_IDS:
        logits = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        rows.append(tuple(logits[range(len(ids) - 1), ids[1:]].tolist()))
    return tuple(rows)
