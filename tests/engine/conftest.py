"""A small real tokenizer and a model folder around it, as save_pretrained would leave them."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEXT = "you may call one or more functions to help with the user query. system user assistant\n" * 9
WriteWeights = Callable[[Path, dict[str, int]], None]


@pytest.fixture(scope="session")
def tokenizer_json() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return str(tokenizer.to_str())


@pytest.fixture
def write_weights() -> WriteWeights:
    """A safetensors file of float32 zeros; `lengths` gives each tensor's."""

    def write(path: Path, lengths: dict[str, int]) -> None:
        header: dict[str, object] = {}
        at = 0
        for name, count in lengths.items():
            end = at + 4 * count
            header[name] = {"dtype": "F32", "shape": [count], "data_offsets": [at, end]}
            at = end
        raw = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(at))

    return write


@pytest.fixture
def model_folder(tmp_path: Path, tokenizer_json: str, write_weights: WriteWeights) -> Path:
    """A causal LM whose template knows no tools."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(tokenizer_json)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 400,
        "max_position_embeddings": 512,
        "eos_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_weights(folder / "model.safetensors", {"a": 3, "b": 2})
    return folder
