"""Which linear layers a base has, and how large they are, from its config alone. No I/O."""

from collections.abc import Mapping
from typing import Any

from appliance.core.errors import AdapterError

MAX_RANK = 64
"""Engines reserve memory for this rank in every layer."""

KNOWN_LAYERS = frozenset(
    {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
)


def linear_layers(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Name of each linear layer of a Llama-type base → (inputs, outputs)."""
    try:
        hidden = int(config["hidden_size"])
        heads = int(config["num_attention_heads"])
        head = int(config.get("head_dim") or hidden // heads)
        keys = head * int(config.get("num_key_value_heads") or heads)
        inner = int(config["intermediate_size"])
        layers = int(config["num_hidden_layers"])
    except (KeyError, TypeError, ValueError) as error:
        raise AdapterError("wrong_base", f"the base's config.json lacks {error}") from error
    sizes = {
        "self_attn.q_proj": (hidden, head * heads),
        "self_attn.k_proj": (hidden, keys),
        "self_attn.v_proj": (hidden, keys),
        "self_attn.o_proj": (head * heads, hidden),
        "mlp.gate_proj": (hidden, inner),
        "mlp.up_proj": (hidden, inner),
        "mlp.down_proj": (inner, hidden),
    }
    return {
        f"model.layers.{layer}.{name}": size
        for layer in range(layers)
        for name, size in sizes.items()
    }
