"""The three ways in which tokens see each other: decoding, filling the cache, and scoring."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from appliance.inference.architecture import Architecture
from appliance.inference.kv_cache import KVCache
from appliance.inference.model import padded_index


class Decode:
    """One new token for each of the first rows of the cache; it sees its row up to itself."""

    def __init__(
        self, shape: Architecture, cache: KVCache, positions: Tensor, longest: int
    ) -> None:
        """positions: (rows,) index of each row's new token; `longest`: the largest of them, + 1."""
        rows = len(positions)
        self._shape, self._cache = shape, cache
        self._length = longest
        self._at = torch.arange(rows, device=positions.device) * cache.length + positions
        hidden = torch.arange(longest, device=positions.device) > positions[:, None]
        mask = torch.zeros((rows, longest), device=positions.device, dtype=cache.data.dtype)
        self._mask = mask.masked_fill_(hidden, float("-inf"))[:, None, None]

    def __call__(self, layer: int, qkv: Tensor) -> Tensor:
        """One layer. See `model.Attend`."""
        shape, kv = self._shape, self._cache.layers[layer]
        rows, wide = len(qkv), shape.num_heads * shape.head_size
        kv.view(-1, shape.kv_width).index_copy_(0, self._at, qkv[:, wide:])
        kv = kv[:rows, : self._length].view(
            rows, self._length, 2, shape.num_kv_heads, shape.head_size
        )
        keys, values = kv.permute(2, 0, 3, 1, 4).unbind(0)
        # The query heads of one key head stand where a sequence's queries would: no copies of keys.
        queries = qkv[:, :wide].view(rows, shape.num_kv_heads, -1, shape.head_size)
        out = scaled_dot_product_attention(queries, keys, values, attn_mask=self._mask)
        return out.reshape(rows, wide)


class Fill:
    """New tokens of some rows, many at a time; each sees its row's cache and itself."""

    def __init__(
        self,
        shape: Architecture,
        cache: KVCache,
        first_row: int,
        starts: Sequence[int],
        counts: Sequence[int],
    ) -> None:
        """Rows from `first_row` on get `counts` new tokens each, after `starts` that they have."""
        device = cache.data.device
        self._shape, self._cache = shape, cache
        self._rows = slice(first_row, first_row + len(counts))
        self._gather, self._scatter = padded_index(counts, device)
        start = torch.tensor(starts, device=device)
        longest = self._gather.shape[1]
        steps = torch.arange(longest, device=device)
        positions = start[:, None] + steps
        self.positions = positions.flatten()[self._scatter]
        rows = torch.arange(first_row, first_row + len(counts), device=device)
        self._at = (rows[:, None] * cache.length + positions).flatten()[self._scatter]
        self._length = max(s + c for s, c in zip(starts, counts, strict=True))
        seen = torch.arange(self._length, device=device) <= positions[:, :, None]
        mask = torch.zeros(seen.shape, device=device, dtype=cache.data.dtype)
        self._mask = mask.masked_fill_(~seen, float("-inf"))[:, None]

    def __call__(self, layer: int, qkv: Tensor) -> Tensor:
        """One layer. See `model.Attend`."""
        shape, kv = self._shape, self._cache.layers[layer]
        wide = shape.num_heads * shape.head_size
        kv.view(-1, shape.kv_width).index_copy_(0, self._at, qkv[:, wide:])
        keys, values = _keys_and_values(kv[self._rows, : self._length], shape)
        queries = _by_head(qkv[:, :wide][self._gather], shape)
        out = scaled_dot_product_attention(queries, keys, values, attn_mask=self._mask)
        return out.transpose(1, 2).reshape(-1, wide)[self._scatter]


class Teach:
    """Whole sequences, without the cache: each token sees what stands before it."""

    def __init__(self, shape: Architecture, counts: Sequence[int], device: torch.device) -> None:
        self._shape = shape
        self._gather, self._scatter = padded_index(counts, device)
        steps = torch.arange(self._gather.shape[1], device=device)
        self.positions = steps.expand(self._gather.shape).flatten()[self._scatter]

    def __call__(self, layer: int, qkv: Tensor) -> Tensor:  # noqa: ARG002 - one of three alike
        """One layer. See `model.Attend`."""
        shape = self._shape
        wide = shape.num_heads * shape.head_size
        padded = qkv[self._gather]
        queries = _by_head(padded[:, :, :wide], shape)
        keys, values = _keys_and_values(padded[:, :, wide:], shape)
        # Padding stands at the end, where causal attention never looks.
        out = scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return out.transpose(1, 2).reshape(-1, wide)[self._scatter]


def _by_head(wide: Tensor, shape: Architecture) -> Tensor:
    """(rows, length, heads * size) → (rows, heads, length, size)."""
    return wide.view(*wide.shape[:2], -1, shape.head_size).transpose(1, 2)


def _keys_and_values(kv: Tensor, shape: Architecture) -> tuple[Tensor, Tensor]:
    """(rows, length, kv width) → keys and values, each (rows, heads, length, size)."""
    keys, values = (_by_head(half, shape) for half in kv.chunk(2, dim=2))
    group = shape.num_heads // shape.num_kv_heads
    if group > 1:
        keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
    return keys, values
