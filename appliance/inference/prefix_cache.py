"""Keys and values of prompts' beginnings, kept in blocks so that no prompt is computed twice.

A block's key covers the adapter and every id up to the block's end. Adapters are immutable, so a
block never goes stale. The last, partly filled block of a prompt is kept too: the choices of one
request share all of it.
"""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from appliance.core.digests import Digest
from appliance.inference.architecture import Architecture
from appliance.inference.kv_cache import lazy_zeros

BLOCK = 16


def block_keys(adapter: Digest | None, ids: Sequence[int]) -> list[bytes]:
    """One key per block of `ids`, the last perhaps partly filled."""
    raw = np.asarray(ids, dtype=np.int32).tobytes()
    key = (adapter or "base").encode()
    keys = []
    for at in range(0, len(raw), 4 * BLOCK):
        key = blake2b(key + raw[at : at + 4 * BLOCK], digest_size=16).digest()
        keys.append(key)
    return keys


class PrefixCache:
    """Blocks by key; the least recently used goes first."""

    def __init__(
        self, shape: Architecture, *, max_tokens: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        count = max_tokens // BLOCK
        size = (count, shape.num_layers, BLOCK, shape.kv_width)
        self._data = lazy_zeros(size, device=device, dtype=dtype)
        self._free = list(range(count - 1, -1, -1))
        self._blocks: OrderedDict[bytes, int] = OrderedDict()

    def __contains__(self, key: bytes) -> bool:
        return key in self._blocks

    def match(self, keys: Sequence[bytes]) -> int:
        """How many of the first blocks are here."""
        for count, key in enumerate(keys):
            if key not in self._blocks:
                return count
        return len(keys)

    def load(self, keys: Sequence[bytes], row: Tensor, length: int) -> None:
        """Copy `length` tokens of blocks into a cache row. row: (layers, length, width)."""
        if not keys:
            return
        for key in keys:
            self._blocks.move_to_end(key)
        found = self._data[torch.tensor([self._blocks[key] for key in keys])]
        row[:, :length] = found.transpose(0, 1).flatten(1, 2)[:, :length]

    def store(self, keys: Sequence[bytes], row: Tensor, length: int) -> None:
        """Keep the blocks that are new; `length` tokens of the row are valid."""
        for index, key in enumerate(keys):
            if key in self._blocks:
                continue
            block = self._take()
            if block is None:
                return
            first = index * BLOCK
            last = min(first + BLOCK, length)
            self._data[block, :, : last - first] = row[:, first:last]
            self._blocks[key] = block

    def _take(self) -> int | None:
        if self._free:
            return self._free.pop()
        return self._blocks.popitem(last=False)[1] if self._blocks else None
