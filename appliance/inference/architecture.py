"""Which models the embedded engine runs, and the numbers that shape them, from config.json."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from appliance.core.errors import UsageError

_KNOWN = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A decoder with RMSNorm, rotary positions, grouped-query attention and SwiGLU."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    norm_eps: float
    tied: bool
    context_length: int
    inverse_frequencies: tuple[float, ...]
    """Of the rotary positions, one per pair of a head's dimensions."""

    @property
    def kv_width(self) -> int:
        """Numbers that one token keeps in one layer: its keys, then its values."""
        return 2 * self.num_kv_heads * self.head_size


def read_architecture(base: Path) -> Architecture:
    """The architecture of a base.

    Raises:
        UsageError: a model that this engine does not run.
    """
    config: dict[str, Any] = msgspec.json.decode((base / "config.json").read_bytes())
    name = config["architectures"][0]
    if name not in _KNOWN:
        raise _unsupported(f"architecture {name}")
    if config.get("hidden_act", "silu") != "silu":
        raise _unsupported(f"activation {config['hidden_act']}")
    num_heads = config["num_attention_heads"]
    head_size = config.get("head_dim") or config["hidden_size"] // num_heads
    return Architecture(
        num_layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_heads=num_heads,
        num_kv_heads=config.get("num_key_value_heads") or num_heads,
        head_size=head_size,
        vocab_size=config["vocab_size"],
        norm_eps=config.get("rms_norm_eps", 1e-6),
        tied=config.get("tie_word_embeddings", False),
        context_length=_context_length(config, name),
        inverse_frequencies=_inverse_frequencies(config, head_size),
    )


def _context_length(config: dict[str, Any], name: str) -> int:
    """Within its sliding window a windowed model is the plain one, so we stop there."""
    length = int(config.get("max_position_embeddings", 2048))
    windowed = config.get("use_sliding_window", name == "MistralForCausalLM")
    window = config.get("sliding_window") if windowed else None
    return min(length, window) if window else length


def _inverse_frequencies(config: dict[str, Any], head_size: int) -> tuple[float, ...]:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    plain = [theta ** (-index / head_size) for index in range(0, head_size, 2)]
    if kind == "default":
        return tuple(plain)
    if kind == "linear":
        return tuple(f / rope["factor"] for f in plain)
    if kind == "llama3":
        return tuple(_llama3(f, rope) for f in plain)
    raise _unsupported(f"rotary scaling {kind}")


def _llama3(frequency: float, rope: dict[str, float]) -> float:
    """Long waves are slowed by `factor`, short ones kept, those between blended (Llama 3.1)."""
    original = rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    wavelength = 2 * math.pi / frequency
    if wavelength < original / high:
        return frequency
    if wavelength > original / low:
        return frequency / rope["factor"]
    smooth = (original / wavelength - low) / (high - low)
    return (1 - smooth) * frequency / rope["factor"] + smooth * frequency


def _unsupported(what: str) -> UsageError:
    return UsageError(
        f"the embedded engine does not run {what}; it runs {', '.join(sorted(_KNOWN))}",
        next_step="choose a base of one of these",
    )
