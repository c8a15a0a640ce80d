"""A random base of a few thousand weights, and sealed datasets for it."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from appliance.core.digests import Digest
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.records import ArrayRef, Dataset, Example, encode
from appliance.engine.bases import Base, Registry
from appliance.engine.template import Template

os.environ.setdefault("OMP_NUM_THREADS", "1")
_WORDS = [
    "add", "take", "keep", "drop", "levy", "tare", "gross", "net", "perk", "snap",
    "one", "two", "three", "four", "five",
]  # fmt: skip


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory: Llama, 2 layers, a tokenizer of single bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("base")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(7)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=258,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=257,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    talks = [
        [
            {"role": "user", "content": f"say {a} {b}"},
            {"role": "assistant", "content": f"{b} {a}"},
        ]
        for a, b in zip(_WORDS, _WORDS[3:], strict=False)
    ]
    lines = [json.dumps({"messages": talk}) for talk in talks]
    (folder / "replay.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    return home


@pytest.fixture
def base(home: Home, base_folder: Path) -> Base:
    return Registry(home).add_directory(base_folder, "random", origin="test")


class DatasetMaker:
    """Seals datasets the way curation does."""

    def __init__(self, home: Home, base: Base) -> None:
        self.store = ObjectStore(home.objects)
        self.base = base
        self.template = Template.load(base.path)

    def example(self, number: int, *, kind: str = "success", **fields: object) -> Example:
        """A short task about two words; every third one is failed where the kind says so."""
        word, other = _WORDS[number % len(_WORDS)], _WORDS[(number * 7 + 3) % len(_WORDS)]
        spans = self.template.spans(
            [
                {"role": "system", "content": "You work here."},
                {"role": "user", "content": f"{word} then {other} {number}"},
                {"role": "assistant", "content": f"{other}({word})"},
            ]
        )
        draw = np.random.default_rng(number)
        logprobs = -draw.random(sum(spans.mask)).astype("<f4")
        values: dict[str, object] = {
            "trajectory_id": f"t{number}",
            "version": 1,
            "node": 0,
            "kind": kind,
            "tier": "gold",
            "family": f"family{number % 2}",
            "task": f"task{number}",
            "reward": 0.0 if kind == "failure" else 1.0,
            "ids": self.array(spans.ids, "int32"),
            "mask": self.array(spans.mask, "uint8"),
            "logprobs": self.array(logprobs.tolist(), "float32"),
            "adapter": None,
        }
        return Example(**{**values, **fields})  # type: ignore[arg-type]

    def array(self, values: Sequence[float], dtype: str) -> ArrayRef:
        wire = {"int32": "<i4", "uint8": "|u1", "float32": "<f4"}[dtype]
        digest = self.store.put(np.array(values, dtype=wire).tobytes())
        return ArrayRef(digest_of_bytes=digest, dtype=dtype, count=len(values))  # type: ignore[arg-type]

    def seal(self, examples: Sequence[Example], **fields: object) -> Digest:
        values: dict[str, object] = {
            "base": self.base.digest,
            "template": self.template.digest,
            "recipe": self.base.digest,
            "label": "internal",
            "trajectories": tuple(sorted({(e.trajectory_id, e.version) for e in examples})),
            "examples": tuple(examples),
            "exclusions": (),
            "counts": {},
        }
        dataset = Dataset(**{**values, **fields})  # type: ignore[arg-type]
        return self.store.put(encode(dataset))


@pytest.fixture
def maker(home: Home, base: Base) -> DatasetMaker:
    return DatasetMaker(home, base)
