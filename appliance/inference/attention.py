"""The three ways in which tokens see each other: decoding, filling the cache, and scoring."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from appliance.inference import steady
from appliance.inference.architecture import Architecture
from appliance.inference.kv_pages import KVRows
from appliance.inference.model import padded_index


class Decode:
    """One new token for each of the first rows of the cache; it sees its row up to itself."""

    def __init__(
        self,
        shape: Architecture,
        cache: KVRows,
        positions: Tensor,
        count: int,
        longest: int,
        dtype: torch.dtype,
        writes: Tensor | None = None,
    ) -> None:
        """positions: (tokens,) index of each new token. Only the first `count` are rows' own.

        longest: the largest of them, + 1. writes: (count,) the row that each is written to, where
        that is not the row that it stands for.
        """
        device = positions.device
        self._shape, self._cache = shape, cache
        self._count, self._length = count, steady.keys(longest)
        padded = len(positions)
        positions = positions[:count]
        rows = torch.arange(count, device=device) if writes is None else writes
        self._where = cache.where(rows, positions)
        hidden = torch.arange(self._length, device=device) > positions[:, None]
        mask = torch.zeros((count, self._length), device=device, dtype=dtype)
        self._mask = mask.masked_fill_(hidden, float("-inf"))[:, None, None]
        self._group = shape.num_heads // shape.num_kv_heads
        # Only float32 promises the same numbers in any company.
        asked = steady.queries(self._group) if dtype == torch.float32 else self._group
        self._asked = torch.arange(asked, device=device).clamp_(max=self._group - 1)
        wide = shape.num_heads * shape.head_size
        # Rows that are nobody's attend to nothing; one buffer serves all layers.
        self._out = torch.zeros((padded, wide), device=device, dtype=dtype)
        self._own = self._out[:count].view(count, shape.num_kv_heads, self._group, shape.head_size)

    def __call__(self, layer: int, qkv: Tensor) -> Tensor:
        """One layer. See `model.Attend`."""
        shape, count, group = self._shape, self._count, self._group
        wide = shape.num_heads * shape.head_size
        own = qkv[:count]
        self._cache.write(layer, self._where, own[:, wide:])
        kv = self._cache.read(layer, slice(count), self._length)
        kv = kv.view(count, self._length, 2, shape.num_kv_heads, shape.head_size)
        keys, values = kv.permute(2, 0, 3, 1, 4).unbind(0)
        # The query heads of one key head stand where a sequence's queries would: no copies of keys.
        queries = own[:, :wide].view(count, shape.num_kv_heads, group, shape.head_size)
        if len(self._asked) > group:
            # Real copies: queries without a stride go to another kernel.
            queries = queries.index_select(2, self._asked)
        found = scaled_dot_product_attention(queries, keys, values, attn_mask=self._mask)
        self._own.copy_(found[:, :, :group])
        return self._out


class Fill:
    """New tokens of some rows, many at a time; each sees its row's cache and itself."""

    def __init__(
        self,
        shape: Architecture,
        cache: KVRows,
        first_row: int,
        starts: Sequence[int],
        counts: Sequence[int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Rows from `first_row` on get `counts` new tokens each, after `starts` that they have."""
        self._shape, self._cache = shape, cache
        self._rows = slice(first_row, first_row + len(counts))
        self._gather, scatter = padded_index(counts, device, steady.queries(max(counts)))
        start = torch.tensor(starts, device=device)
        steps = torch.arange(self._gather.shape[1], device=device)
        positions = start[:, None] + steps
        rows = torch.arange(first_row, first_row + len(counts), device=device)
        rows = rows[:, None].expand(positions.shape).flatten()[scatter]
        self._where = cache.where(rows, positions.flatten()[scatter])
        self._scatter = steady.padded(scatter, steady.rows(len(scatter)))
        self.positions = positions.flatten()[self._scatter]
        """(tokens, padded) index of each new token in its row."""
        self._length = steady.keys(max(s + c for s, c in zip(starts, counts, strict=True)))
        seen = torch.arange(self._length, device=device) <= positions[:, :, None]
        mask = torch.zeros(seen.shape, device=device, dtype=dtype)
        self._mask = mask.masked_fill_(~seen, float("-inf"))[:, None]

    def __call__(self, layer: int, qkv: Tensor) -> Tensor:
        """One layer. See `model.Attend`."""
        shape = self._shape
        wide = shape.num_heads * shape.head_size
        self._cache.write(layer, self._where, qkv[: len(self._where), wide:])
        kv = self._cache.read(layer, self._rows, self._length)
        keys, values = _keys_and_values(kv, shape)
        queries = _by_head(qkv[:, :wide][self._gather], shape)
        out = scaled_dot_product_attention(queries, keys, values, attn_mask=self._mask)
        return out.transpose(1, 2).reshape(-1, wide)[self._scatter]


class Teach:
    """Whole sequences, without the cache: each token sees what stands before it."""

    def __init__(self, shape: Architecture, counts: Sequence[int], device: torch.device) -> None:
        self._shape = shape
        self._gather, self._scatter = padded_index(counts, device, max(counts))
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
