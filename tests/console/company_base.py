"""A registered base with a byte-level tokenizer, so that token ids have words."""

import json
import struct
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from appliance.core.digests import Digest
from appliance.core.home import Home
from appliance.engine.bases import Registry

_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def byte_tokenizer() -> Tokenizer:
    """One token for each byte, and three special ones."""
    letters = [*_SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE(vocab={token: at for at, token in enumerate(letters)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(_SPECIALS))
    return made


def register_base(home: Home) -> Digest:
    """A base of that tokenizer with next to no weights, named ``tiny``."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tokenizer = byte_tokenizer()
        tokenizer.save(str(folder / "tokenizer.json"))
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": tokenizer.get_vocab_size(),
            "max_position_embeddings": 2048,
            "hidden_size": 16,
            "eos_token_id": 2,
        }
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
        head = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + bytes(4))
        return Registry(home).add_directory(folder, "tiny", "made for the console's tests").digest
