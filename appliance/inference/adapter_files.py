"""Reading an adapter for the engine: its digest first, then its numbers, checked.

What is not here: the full static check of a stranger's adapter (serving). This is the last look
before the weights are used, and it trusts nobody's earlier one.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from appliance.core import adapters
from appliance.core.digests import Digest, short
from appliance.core.errors import AdapterError
from appliance.inference.architecture import Architecture
from appliance.inference.lora import AdapterWeights, site_sizes
from appliance.inference.weights import interleaved

MAX_RANK = 256

_PARTS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
_PREFIX = "base_model.model.model.layers."


class _Config(msgspec.Struct, kw_only=True):
    """What matters of PEFT's adapter_config.json."""

    peft_type: str
    r: int
    lora_alpha: float
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    bias: str = "none"
    modules_to_save: list[str] | None = None
    rank_pattern: dict[str, Any] = {}
    alpha_pattern: dict[str, Any] = {}


def read_adapter(
    folder: Path, digest: Digest, *, base: Digest, shape: Architecture, dtype: torch.dtype
) -> AdapterWeights:
    """An adapter's weights, scaled, on the CPU.

    Raises:
        AdapterError: its bytes are not what the digest says, or it is not a LoRA for this base.
    """
    try:
        content = adapters.content_digest(folder, base)
    except OSError as error:
        raise AdapterError("missing_file", f"adapter {short(digest)}: {error}") from error
    if content != digest:
        raise AdapterError(
            "digest_mismatch",
            f"adapter {short(digest)} has the bytes, or the base, of {short(content)}",
        )
    config = _read_config(folder)
    try:
        with safe_open(folder / adapters.WEIGHTS, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise AdapterError(
            "truncated", f"adapter {short(digest)} cannot be read: {error}"
        ) from error
    _require_finite(tensors)
    return _Layout(config, tensors, shape, dtype).weights()


def _read_config(folder: Path) -> _Config:
    try:
        config = msgspec.json.decode((folder / adapters.CONFIG).read_bytes(), type=_Config)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise AdapterError("malformed", f"{adapters.CONFIG}: {error}") from error
    if config.use_dora:
        raise AdapterError("dora", "DoRA adapters cannot share a batch")
    if config.modules_to_save:
        raise AdapterError(
            "modules_to_save", f"it replaces whole modules: {config.modules_to_save}"
        )
    if config.rank_pattern or config.alpha_pattern:
        raise AdapterError("wrong_rank", "every module must have the same rank and alpha")
    if config.peft_type != "LORA" or config.bias != "none" or config.fan_in_fan_out:
        raise AdapterError("malformed", "expected a LoRA adapter without biases")
    if not 1 <= config.r <= MAX_RANK:
        raise AdapterError("over_rank", f"rank must be 1 to {MAX_RANK}, got {config.r}")
    return config


def _require_finite(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if torch.isnan(tensor).any():
            raise AdapterError("nan", f"{name} holds values that are not numbers")
        if torch.isinf(tensor).any():
            raise AdapterError("infinite", f"{name} holds infinite values")


class _Layout:
    """Takes the tensors one by one; what is left at the end does not belong here."""

    def __init__(
        self, config: _Config, tensors: dict[str, Tensor], shape: Architecture, dtype: torch.dtype
    ) -> None:
        self._rank = config.r
        self._scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
        self._left = tensors
        self._shape = shape
        self._dtype = dtype

    def weights(self) -> AdapterWeights:
        pairs = [list(self._sites(layer)) for layer in range(self._shape.num_layers)]
        if self._left:
            raise AdapterError("foreign_modules", f"this base has no {sorted(self._left)[0]}")
        return AdapterWeights(self._rank, pairs)

    def _sites(self, layer: int) -> Iterator[tuple[Tensor, Tensor]]:
        for names, (size_in, _) in zip(_PARTS, site_sizes(self._shape), strict=True):
            loaded = [
                self._pair(f"{_PREFIX}{layer}.{name}", size_in, self._out(name)) for name in names
            ]
            a = torch.cat([pair[0] for pair in loaded])
            yield a.t().contiguous(), _block_diagonal([pair[1].t() for pair in loaded])

    def _pair(self, name: str, size_in: int, size_out: int) -> tuple[Tensor, Tensor]:
        """A: (rank, in), B: (out, rank), scaled; zeros where the adapter has no such module."""
        a = self._left.pop(f"{name}.lora_A.weight", None)
        b = self._left.pop(f"{name}.lora_B.weight", None)
        if a is None and b is None:
            a, b = torch.zeros(self._rank, size_in), torch.zeros(size_out, self._rank)
        if a is None or b is None:
            raise AdapterError("malformed", f"{name} has only one of lora_A and lora_B")
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != self._rank or b.shape[1] != self._rank:
            raise AdapterError("wrong_rank", f"{name} is not of rank {self._rank}")
        if a.shape[1] != size_in or b.shape[0] != size_out:
            raise AdapterError(
                "wrong_base",
                f"{name} is {b.shape[0]} x {a.shape[1]}, this base's {size_out} x {size_in}",
            )
        b = b.float() * self._scale
        if name.endswith(("q_proj", "k_proj")):
            b = interleaved(b, self._shape.head_size)
        return a.to(self._dtype), b.to(self._dtype)

    def _out(self, name: str) -> int:
        shape = self._shape
        sizes = {
            "q_proj": shape.num_heads * shape.head_size,
            "k_proj": shape.kv_width // 2,
            "v_proj": shape.kv_width // 2,
            "o_proj": shape.hidden_size,
            "gate_proj": shape.intermediate_size,
            "up_proj": shape.intermediate_size,
            "down_proj": shape.hidden_size,
        }
        return sizes[name.rpartition(".")[2]]


def _block_diagonal(blocks: list[Tensor]) -> Tensor:
    rows, columns = (sum(block.shape[side] for block in blocks) for side in (0, 1))
    whole = torch.zeros((rows, columns), dtype=blocks[0].dtype)
    row = column = 0
    for block in blocks:
        whole[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    return whole
