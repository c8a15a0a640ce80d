"""A base's weights, laid out for few and large matrix products.

Query, key and value stand in one matrix, gate and up in another. The rows of queries and keys are
reordered so that the two numbers that a rotary position turns together stand side by side: the
rotation is then one complex product, and scores, sums over the same pairs, do not change.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from appliance.core.errors import IntegrityError
from appliance.inference.architecture import Architecture
from appliance.inference.linear import Product, product

SITES = ("qkv", "o", "gate_up", "down")
"""The four products of a layer, in order; LoRA goes on each."""


@dataclass(slots=True)
class Layer:
    """One decoder layer."""

    attention_norm: Tensor
    mlp_norm: Tensor
    qkv: Product
    o: Product
    gate_up: Product
    down: Product


@dataclass(slots=True)
class Weights:
    """All of a model."""

    embedding: Tensor
    layers: list[Layer]
    norm: Tensor
    head: Product


def load_weights(
    base: Path, shape: Architecture, *, device: torch.device, dtype: torch.dtype
) -> Weights:
    """Read a base's safetensors.

    Raises:
        IntegrityError: a tensor that the configuration speaks of is missing or has another shape.
    """
    try:
        with safe_open(base / "model.safetensors", framework="pt", device=str(device)) as file:
            return _Reader(file, shape, dtype).read()
    except (KeyError, RuntimeError) as error:
        raise IntegrityError(f"the weights of {base.name[:12]} do not fit: {error}") from error


def interleaved(rows: Tensor, head_size: int) -> Tensor:
    """Rows of a query or key projection with each rotary pair side by side.

    rows: (heads * head_size, …). Hugging Face pairs dimension i with i + head_size / 2.
    """
    by_half = rows.reshape(-1, 2, head_size // 2, *rows.shape[1:])
    return by_half.transpose(1, 2).reshape(rows.shape)


class _Reader:
    def __init__(self, file: Any, shape: Architecture, dtype: torch.dtype) -> None:
        self._file = file
        self._names = set(file.keys())
        self._shape = shape
        self._dtype = dtype

    def read(self) -> Weights:
        embedding = self._get("model.embed_tokens.weight")
        tied = self._shape.tied or "lm_head.weight" not in self._names
        head = product(embedding, keep=True) if tied else product(self._get("lm_head.weight"))
        if tuple(embedding.shape) != (self._shape.vocab_size, self._shape.hidden_size):
            raise IntegrityError(
                f"the embedding is {tuple(embedding.shape)}, the configuration says "
                f"{(self._shape.vocab_size, self._shape.hidden_size)}"
            )
        return Weights(embedding, list(self._layers()), self._get("model.norm.weight"), head)

    def _layers(self) -> Iterator[Layer]:
        for index in range(self._shape.num_layers):
            name = f"model.layers.{index}"
            yield Layer(
                attention_norm=self._get(f"{name}.input_layernorm.weight"),
                mlp_norm=self._get(f"{name}.post_attention_layernorm.weight"),
                qkv=self._product(
                    f"{name}.self_attn.q_proj",
                    f"{name}.self_attn.k_proj",
                    f"{name}.self_attn.v_proj",
                ),
                o=self._product(f"{name}.self_attn.o_proj"),
                gate_up=self._product(f"{name}.mlp.gate_proj", f"{name}.mlp.up_proj"),
                down=self._product(f"{name}.mlp.down_proj"),
            )

    def _product(self, *parts: str) -> Product:
        weight = torch.cat([self._rows(part, "weight") for part in parts])
        biased = any(f"{part}.bias" in self._names for part in parts)
        bias = torch.cat([self._rows(part, "bias") for part in parts]) if biased else None
        return product(weight, bias)

    def _rows(self, part: str, kind: str) -> Tensor:
        rows = self._get(f"{part}.{kind}")
        if part.endswith(("q_proj", "k_proj")):
            return interleaved(rows, self._shape.head_size)
        return rows

    def _get(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor.to(self._dtype)
