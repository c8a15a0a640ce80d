"""Keys and values in blocks of one pool, and rows in which a sequence's blocks stand in order.

Attention wants a row's tokens side by side. On a CPU they are: a row is a range of addresses onto
which its blocks are mapped, so paging costs nothing per step and sharing a block copies nothing.
On a GPU a step gathers the blocks by a table. Which block belongs to whom: blocks.py.
"""

import math
import mmap
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from appliance.inference import steady
from appliance.inference.architecture import Architecture
from appliance.inference.mapped_memory import MappedMemory, most_mappings

BLOCK = 16


class KVRows(Protocol):
    """Rows of keys, then values. `where` says where a row's position is written."""

    def where(self, rows: Tensor, positions: Tensor) -> Tensor:
        """Indices for `write`: (tokens,)."""

    def write(self, layer: int, where: Tensor, kv: Tensor) -> None:
        """Store tokens. kv: (tokens, 2 * kv heads * head size)."""

    def read(self, layer: int, rows: slice, length: int) -> Tensor:
        """The first `length` tokens of rows: (rows, length, width). All numbers are finite."""


class PlainRows:
    """Rows in memory of their own."""

    def __init__(self, data: Tensor) -> None:
        """data: (layers, rows, length, width)."""
        self._layers = list(data.unbind(0))
        self._flat = [layer.view(-1, data.shape[3]) for layer in self._layers]
        self._length = data.shape[2]

    def where(self, rows: Tensor, positions: Tensor) -> Tensor:
        """See KVRows."""
        return rows * self._length + positions

    def write(self, layer: int, where: Tensor, kv: Tensor) -> None:
        """See KVRows."""
        self._flat[layer].index_copy_(0, where, kv)

    def read(self, layer: int, rows: slice, length: int) -> Tensor:
        """See KVRows."""
        return self._layers[layer][rows, :length]


class Pages(KVRows, Protocol):
    """Rows that are made of blocks."""

    block: int
    """Tokens in a block."""
    count: int
    """Blocks in the pool."""

    def place(self, row: int, first: int, blocks: Sequence[int]) -> None:
        """Let a row's blocks from index `first` on be these."""

    def can_place(self, blocks: int, used: int) -> bool:
        """Whether so many more can be placed, where only the first `used` rows are in use."""

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy the first tokens of a block to another."""

    def scrub(self, blocks: Sequence[int]) -> None:
        """Zero them: what is masked is still multiplied, by zero, and must be finite."""


def make_pages(
    shape: Architecture,
    *,
    max_rows: int,
    max_tokens: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Pages:
    """The pages that fit a device."""
    kind = MappedPages if device.type == "cpu" else GatheredPages
    return kind(shape, max_rows=max_rows, max_tokens=max_tokens, device=device, dtype=dtype)


class _Pool:
    """The blocks themselves: `data` is (layers, blocks, tokens, width)."""

    data: Tensor

    def copy(self, source: int, target: int, tokens: int) -> None:
        """See Pages."""
        self.data[:, target, :tokens] = self.data[:, source, :tokens]

    def scrub(self, blocks: Sequence[int]) -> None:
        """See Pages."""
        for block in blocks:
            self.data[:, block].zero_()


class MappedPages(_Pool, PlainRows):
    """Rows are addresses; see `mapped_memory`."""

    def __init__(
        self,
        shape: Architecture,
        *,
        max_rows: int,
        max_tokens: int,
        device: torch.device,  # noqa: ARG002 - as the other
        dtype: torch.dtype,
    ) -> None:
        width = shape.kv_width
        self.block = _block_tokens(width * dtype.itemsize)
        self.count = max_tokens // self.block
        self._bytes = self.block * width * dtype.itemsize
        length = steady.keys(min(shape.context_length, self.count * self.block))
        self._per_row = -(-length // self.block)
        self._num_layers, self._max_rows = shape.num_layers, max_rows
        pool = (shape.num_layers, self.count, self.block, width)
        window = (shape.num_layers, max_rows, self._per_row * self.block, width)
        self._memory = MappedMemory(*(math.prod(size) * dtype.itemsize for size in (pool, window)))
        self.data = torch.frombuffer(self._memory.whole, dtype=dtype).view(pool)
        super().__init__(torch.frombuffer(self._memory.window, dtype=dtype).view(window))
        self._shown: list[list[int]] = [[] for _ in range(max_rows)]
        self._parts = [0] * max_rows  # a row's mappings in one layer
        self._own = [0] * max_rows  # of what a row shows, so many blocks are still its own
        self._most_parts = most_mappings() // shape.num_layers

    def place(self, row: int, first: int, blocks: Sequence[int]) -> None:
        """See Pages. Blocks that are neighbours in the pool are mapped together."""
        for index, start, count in _runs(first, blocks):
            for layer in range(self._num_layers):
                at = (layer * self._max_rows + row) * self._per_row + index
                begin = layer * self.count + start
                self._memory.show(at * self._bytes, begin * self._bytes, count * self._bytes)
        self._shown[row][first : first + len(blocks)] = blocks
        self._own[row] = first + len(blocks)
        self._parts[row] = len(_runs(0, self._shown[row]))

    def can_place(self, blocks: int, used: int) -> bool:
        """See Pages. The kernel limits how many parts may be mapped."""
        if sum(self._parts) + blocks > self._most_parts:
            self._hide_old(used)
        return sum(self._parts) + blocks <= self._most_parts

    def _hide_old(self, used: int) -> None:
        """Take what rows show beyond their own."""
        for row, shown in enumerate(self._shown):
            own = self._own[row] if row < used else 0
            if len(shown) > own:
                for layer in range(self._num_layers):
                    at = (layer * self._max_rows + row) * self._per_row + own
                    self._memory.hide(at * self._bytes, (len(shown) - own) * self._bytes)
                del shown[own:]
                self._parts[row] = len(_runs(0, shown))


class GatheredPages(_Pool):
    """Rows are lists of blocks in a table; reading gathers them."""

    def __init__(
        self,
        shape: Architecture,
        *,
        max_rows: int,
        max_tokens: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.block = BLOCK
        self.count = max_tokens // BLOCK
        # One block more than there is to give, and one row, `nobody`, that is made of it alone.
        size = (shape.num_layers, self.count + 1, BLOCK, shape.kv_width)
        self.data = torch.zeros(size, device=device, dtype=dtype)
        self._flat = self.data.view(shape.num_layers, -1, shape.kv_width)
        length = steady.keys(min(shape.context_length, self.count * BLOCK))
        self.nobody = steady.rows(max_rows)
        places = (self.nobody + 1, -(-length // BLOCK))
        self._table = torch.full(places, self.count, dtype=torch.int64, device=device)

    @property
    def longest(self) -> int:
        """Tokens that a row has place for."""
        return self._table.shape[1] * BLOCK

    def place(self, row: int, first: int, blocks: Sequence[int]) -> None:
        """See Pages."""
        placed = torch.tensor(blocks, dtype=torch.int64, device=self._table.device)
        self._table[row, first : first + len(blocks)] = placed

    def can_place(self, blocks: int, used: int) -> bool:  # noqa: ARG002 - as the other
        """See Pages. A table has room for all."""
        return True

    def where(self, rows: Tensor, positions: Tensor) -> Tensor:
        """See KVRows."""
        return self._table[rows, positions // BLOCK] * BLOCK + positions % BLOCK

    def write(self, layer: int, where: Tensor, kv: Tensor) -> None:
        """See KVRows."""
        self._flat[layer].index_copy_(0, where, kv)

    def read(self, layer: int, rows: slice, length: int) -> Tensor:
        """See KVRows."""
        return self.data[layer][self._table[rows, : length // BLOCK]].flatten(1, 2)


def _block_tokens(bytes_per_token: int) -> int:
    """The fewest tokens, from BLOCK on, that fill whole pages of memory."""
    tokens = BLOCK
    while tokens * bytes_per_token % mmap.PAGESIZE:
        tokens *= 2
    return tokens


def _runs(first: int, blocks: Sequence[int]) -> list[tuple[int, int, int]]:
    """(index in the row, first block, how many) of each stretch of neighbours."""
    at = [
        index for index, block in enumerate(blocks) if not index or block != blocks[index - 1] + 1
    ]
    return [
        (first + begin, blocks[begin], end - begin) for begin, end in pairwise([*at, len(blocks)])
    ]
