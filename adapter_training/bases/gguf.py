"""A GGUF file becomes a safetensors directory, once, when it is registered.

Quantised weights are stored as bfloat16: a 4-bit block holds no more than that. What is not here:
training or serving on quantised weights.
"""

from pathlib import Path

from appliance.core.errors import RecordError

_FULL_PRECISION = {"F32", "F16"}


def convert_gguf(source: Path, target: Path) -> None:
    """Write config, weights, tokenizer and chat template of `source` into the folder `target`.

    Raises:
        RecordError: not a GGUF file, or an architecture that transformers cannot read from GGUF.
    """
    with source.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise RecordError(
            f"{source}: expected a GGUF file, its first bytes are {magic!r}",
            next_step="give a GGUF file, or the folder that holds config.json and safetensors",
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = str(source.parent), source.name
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
        loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    except Exception as error:  # the reader and the tokenizer library raise anything
        raise RecordError(
            f"{source}: transformers cannot read this GGUF file: {error}",
            next_step="register the model as a safetensors directory instead",
        ) from error
    dtype = torch.float32 if _tensor_types(source) <= _FULL_PRECISION else torch.bfloat16
    # A model that came from GGUF refuses to be saved; a fresh one with its weights does not.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = dtype
    fresh = type(loaded)(config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.to(dtype).save_pretrained(target)
    tokenizer.save_pretrained(target)


def _tensor_types(source: Path) -> set[str]:
    from gguf import GGUFReader

    return {tensor.tensor_type.name for tensor in GGUFReader(source).tensors}
