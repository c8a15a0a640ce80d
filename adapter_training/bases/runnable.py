"""Whether engine and trainer compute what a base's configuration asks for: known before it is in.

Not here: what the engine runs (appliance/inference/architecture.py), which is asked first.
"""

from pathlib import Path
from typing import Any

import msgspec

from appliance.core.errors import RecordError, UsageError
from appliance.inference.architecture import read_architecture

_MODEL_TYPES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
}
_DEFAULT_WINDOW = 4096
"""Where config.json does not say, for a family that has windows; as in transformers."""


def require_runnable(folder: Path, *, source: Path) -> None:
    """Raise unless the model in `folder` is one that this appliance serves and trains exactly.

    Args:
        folder: holds config.json.
        source: what the operator named, for messages.

    Raises:
        UsageError: an architecture that the engine does not run, quantised weights, or attention
            that neither engine nor trainer computes.
        RecordError: config.json does not describe a model.
    """
    try:
        config = msgspec.json.decode((folder / "config.json").read_bytes(), type=dict[str, Any])
        length = read_architecture(folder).context_length
        length = int(config.get("max_position_embeddings", length))
        window = _window(config)
    except FileNotFoundError:
        raise UsageError(
            f"{source} has no config.json", next_step="give the folder that save_pretrained wrote"
        ) from None
    except (msgspec.DecodeError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise RecordError(
            f"{source}: config.json does not describe a model: {error!r}",
            next_step="save the model again with save_pretrained",
        ) from error
    _require_known_type(config, source)
    if config.get("quantization_config"):
        raise UsageError(
            f"{source}: its weights are quantised; adapters are trained on float weights",
            next_step="add the model as it was before, or its GGUF file, which is converted",
        )
    if window is not None and window < length:
        raise UsageError(
            f"{source} asks for sliding-window attention ({window} of {length} tokens), which "
            "neither the engine nor the trainer computes",
            next_step=f"set max_position_embeddings to {window} in its config.json (within its "
            "window it is the plain model), or add a base with full attention",
        )
    odd = sorted(set(config.get("layer_types") or ()) - {"full_attention"})
    if odd and window is None:
        raise UsageError(
            f"{source} has layers with {', '.join(odd)}; engine and trainer compute full_attention",
            next_step="add a base with full attention in every layer",
        )


def _require_known_type(config: dict[str, Any], source: Path) -> None:
    name, kind = config["architectures"][0], config.get("model_type")
    if kind != _MODEL_TYPES[name]:
        raise UsageError(
            f"{source}: config.json says model_type {kind!r}, expected {_MODEL_TYPES[name]!r} "
            f"for {name}",
            next_step="save the model again with save_pretrained",
        )


def _window(config: dict[str, Any]) -> int | None:
    """How many tokens a token sees; None is all of them."""
    kind = config.get("model_type")
    if kind == "mistral" or (kind == "qwen2" and config.get("use_sliding_window")):
        window = config.get("sliding_window", _DEFAULT_WINDOW)
        return None if window is None else int(window)
    return None
