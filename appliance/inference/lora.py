"""Adapters side by side in slots, so that a batch of any mixture is one forward pass.

Each product of a layer has one stacked pair (A, B) over all slots. A batch with one adapter uses
that slot's part; a mixed one runs the span of slots in use and blanks, per row, what is not its
own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from appliance.inference.architecture import Architecture
from appliance.inference.weights import SITES

PARTS = (3, 1, 2, 1)
"""Products that stand in one matrix at each site of weights.SITES: each has a LoRA of its own."""


@dataclass(slots=True)
class AdapterWeights:
    """One adapter: per layer and site, A (in, parts * rank) and B (parts * rank, out), scaled."""

    rank: int
    pairs: list[list[tuple[Tensor, Tensor]]]


class LoraSlots:
    """Per layer and site, all slots' A (slots * parts * rank, in) and B (…, out)."""

    def __init__(
        self, shape: Architecture, *, slots: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.slots = slots
        self.rank = 0
        self._sizes = site_sizes(shape)
        self._num_layers = shape.num_layers
        self._device, self._dtype = device, dtype
        self._a: list[list[Tensor]] = []
        self._b: list[list[Tensor]] = []
        self._spans: dict[tuple[int, int], tuple[list[list[Tensor]], list[list[Tensor]]]] = {}

    def put(self, slot: int, adapter: AdapterWeights) -> None:
        """Load an adapter into a slot; a smaller rank than the others' is filled up with zeros."""
        if adapter.rank > self.rank:
            self._widen(adapter.rank)
        for layer, sites in enumerate(adapter.pairs):
            for site, (a, b) in enumerate(sites):
                rows = self._rows(site, slot, slot + 1)
                for stacked, part in ((self._a[layer][site], a.t()), (self._b[layer][site], b)):
                    own = stacked[rows].view(PARTS[site], self.rank, -1)
                    own.zero_()
                    own[:, : adapter.rank] = part.reshape(PARTS[site], adapter.rank, -1)

    def terms(self, slots: Sequence[int]) -> "SlotTerms | None":
        """What a batch adds whose rows (or tokens) use these slots; -1 is the base itself."""
        used = {slot for slot in slots if slot >= 0}
        if not used:
            return None
        low, high = min(used), max(used) + 1
        a, b = self._span(low, high)
        if len(used) == 1 and min(slots) >= 0:
            return SlotTerms(a, b, None)
        own = torch.tensor(slots, device=self._device)[:, None] == torch.arange(
            low, high, device=self._device
        )
        return SlotTerms(a, b, own.to(self._dtype).unsqueeze(2))

    def _span(self, low: int, high: int) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """The pairs of a span of slots: views, made once."""
        if (low, high) not in self._spans:
            rows = [self._rows(site, low, high) for site in range(len(SITES))]
            a = [[x[r].t() for x, r in zip(sites, rows, strict=True)] for sites in self._a]
            b = [[x[r] for x, r in zip(sites, rows, strict=True)] for sites in self._b]
            self._spans[low, high] = a, b
        return self._spans[low, high]

    def _rows(self, site: int, low: int, high: int) -> slice:
        width = PARTS[site] * self.rank
        return slice(low * width, high * width)

    def _widen(self, rank: int) -> None:
        old_a, old_b, old_rank = self._a, self._b, self.rank
        self.rank = rank
        self._spans = {}
        self._a = [
            [self._empty(site, 0) for site in range(len(SITES))] for _ in range(self._num_layers)
        ]
        self._b = [
            [self._empty(site, 1) for site in range(len(SITES))] for _ in range(self._num_layers)
        ]
        for new, old in ((self._a, old_a), (self._b, old_b)):
            for new_sites, old_sites in zip(new, old, strict=False):
                for site, stacked in enumerate(old_sites):
                    groups = self.slots * PARTS[site]
                    wide = new_sites[site].view(groups, rank, -1)
                    wide[:, :old_rank] = stacked.view(groups, old_rank, -1)

    def _empty(self, site: int, side: int) -> Tensor:
        rows = self.slots * PARTS[site] * self.rank
        return torch.zeros((rows, self._sizes[site][side]), device=self._device, dtype=self._dtype)


class SlotTerms:
    """The LoRA terms of one batch."""

    def __init__(self, a: list[list[Tensor]], b: list[list[Tensor]], own: Tensor | None) -> None:
        """own: (rows, slots in the span, 1), 1 at a row's own slot; None where all rows use one."""
        self._a, self._b, self._own = a, b, own

    def add(self, layer: int, site: int, x: Tensor, out: Tensor) -> None:
        """out += (x A) B, each row with its own slot's pair."""
        z = torch.mm(x, self._a[layer][site])
        if self._own is not None:
            z.view(len(z), self._own.shape[1], -1).mul_(self._own)
        out.addmm_(z, self._b[layer][site])

    def repeated(self, counts: Tensor) -> "SlotTerms":
        """The same for tokens: row i stands for `counts[i]` of them."""
        own = None if self._own is None else self._own.repeat_interleave(counts, dim=0)
        return SlotTerms(self._a, self._b, own)


def site_sizes(shape: Architecture) -> list[tuple[int, int]]:
    """(in, out) of each site."""
    wide = shape.num_heads * shape.head_size
    return [
        (shape.hidden_size, wide + shape.kv_width),
        (wide, shape.hidden_size),
        (shape.hidden_size, 2 * shape.intermediate_size),
        (shape.intermediate_size, shape.hidden_size),
    ]
