"""Keys and values of the sequences under way: one row each, packed at the front.

Contiguous rows on purpose: on a CPU, gathering pages before each product costs more than the
product. Rows grow together, and only as far as the longest sequence needs.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from appliance.inference.architecture import Architecture

_GRAIN = 64


class KVCache:
    """`data`: (layers, rows, length, 2 * kv heads * head size); keys, then values."""

    def __init__(
        self,
        shape: Architecture,
        *,
        max_rows: int,
        max_tokens: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._shape = shape
        self._max_rows = max_rows
        self._max_tokens = max_tokens
        self._device, self._dtype = device, dtype
        self.length = 0
        self.rows = 0
        self.data = torch.empty(0)
        self.layers: list[Tensor] = []
        self._allocate(min(4 * _GRAIN, self.longest))

    @property
    def longest(self) -> int:
        """The longest sequence that there can ever be room for."""
        return min(self._shape.context_length, self._max_tokens)

    def can_hold(self, rows: int, length: int) -> bool:
        """Whether that many rows of that length fit, after growing if need be."""
        return length <= self.longest and rows <= self._rows_at(max(length, self.length))

    def grow(self, length: int, used: int) -> None:
        """Make rows at least `length` long, keeping the first `used` rows. `can_hold` says if."""
        if length <= self.length:
            return
        wanted = max(length, min(2 * self.length, self._max_tokens // max(used, 1)))
        old, kept = self.data, self.length
        self._allocate(min(-(-wanted // _GRAIN) * _GRAIN, self.longest))
        if self.rows < used:
            self._allocate(length)
        self.data[:, :used, :kept] = old[:, :used]

    def reset(self) -> None:
        """With no sequence left: back to short rows, so that many fit."""
        if self.length > 4 * _GRAIN:
            self._allocate(min(4 * _GRAIN, self.longest))

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's first `length` tokens to another row."""
        self.data[:, target, :length] = self.data[:, source, :length]

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange the first `length` tokens of two rows."""
        kept = self.data[:, one, :length].clone()
        self.move(other, one, length)
        self.data[:, other, :length] = kept

    def _rows_at(self, length: int) -> int:
        return min(self._max_rows, self._max_tokens // length)

    def _allocate(self, length: int) -> None:
        self.length = length
        self.rows = self._rows_at(length)
        size = (self._shape.num_layers, self.rows, length, self._shape.kv_width)
        self.data = lazy_zeros(size, device=self._device, dtype=self._dtype)
        self.layers = list(self.data.unbind(0))


def lazy_zeros(size: Sequence[int], *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Zeros that take no memory until they are written (on a CPU).

    Not `torch.empty`: what is masked is still multiplied, by zero, and must be finite.
    """
    if device.type != "cpu":
        return torch.zeros(*size, device=device, dtype=dtype)
    raw = np.zeros(math.prod(size) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(raw).view(dtype).view(*size)
