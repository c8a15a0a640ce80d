"""Adapters side by side in slots, so that a batch of any mixture is one forward pass.

Each product of a layer has one stacked pair (A, B) over all slots. A batch with one adapter uses
that slot's part; a mixed one runs the span of slots in use and blanks, per row, what is not its
own. Blanks are exact zeros, so a row's sum is the same as alone, as long as no sum over slots is so
long that it is cut inside of one (`steady.DEPTH`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from appliance.inference import steady
from appliance.inference.architecture import Architecture
from appliance.inference.weights import SITES

PARTS = (3, 1, 2, 1)
"""Products that stand in one matrix at each site of weights.SITES: each has a LoRA of its own."""


Pieces = list[tuple[slice, Tensor]]
"""Columns of x A, and the rows of B that they meet."""


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
        self._ranks = [0] * len(SITES)  # as they are laid out
        self._sizes = site_sizes(shape)
        self._num_layers = shape.num_layers
        self._device, self._dtype = device, dtype
        self._a: list[list[Tensor]] = []
        self._b: list[list[Tensor]] = []
        self._spans: dict[tuple[int, int], tuple[list[list[Tensor]], list[list[Pieces]]]] = {}

    def put(self, slot: int, adapter: AdapterWeights) -> None:
        """Load an adapter into a slot; a smaller rank than the others' is filled up with zeros."""
        if adapter.rank > self.rank:
            self._widen(adapter.rank)
        for layer, sites in enumerate(adapter.pairs):
            for site, (a, b) in enumerate(sites):
                rows = self._rows(site, slot, slot + 1)
                for stacked, part in ((self._a[layer][site], a.t()), (self._b[layer][site], b)):
                    own = stacked[rows].view(PARTS[site], self._ranks[site], -1)
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
        return SlotTerms(a, b, self._strangers(slots, low, high))

    def terms_of_all(self, strangers: Tensor) -> "SlotTerms":
        """What a batch adds that may use any slot. strangers: (rows, slots, 1), as in SlotTerms."""
        return SlotTerms(*self._span(0, self.slots), strangers)

    def strangers(self, slots: Sequence[int]) -> Tensor:
        """(rows, slots, 1) bool: the slots that are not a row's own."""
        return self._strangers(slots, 0, self.slots)

    def _strangers(self, slots: Sequence[int], low: int, high: int) -> Tensor:
        own = torch.tensor(slots, device=self._device)[:, None]
        return (own != torch.arange(low, high, device=self._device)).unsqueeze(2)

    def _span(self, low: int, high: int) -> tuple[list[list[Tensor]], list[list[Pieces]]]:
        """The pairs of a span of slots: views, made once. B in pieces of whole slots."""
        if (low, high) not in self._spans:
            rows = [self._rows(site, low, high) for site in range(len(SITES))]
            a = [[x[r].t() for x, r in zip(sites, rows, strict=True)] for sites in self._a]
            b = [
                [_pieces(x[r], self._width(i)) for i, (x, r) in enumerate(pairs)]
                for pairs in (list(zip(sites, rows, strict=True)) for sites in self._b)
            ]
            self._spans[low, high] = a, b
        return self._spans[low, high]

    def _rows(self, site: int, low: int, high: int) -> slice:
        return slice(low * self._width(site), high * self._width(site))

    def _width(self, site: int) -> int:
        return PARTS[site] * self._ranks[site]

    def _widen(self, rank: int) -> None:
        old_a, old_b, old_ranks = self._a, self._b, self._ranks
        self.rank = rank
        self._ranks = [steady.rank(rank, parts) for parts in PARTS]
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
                    wide = new_sites[site].view(groups, self._ranks[site], -1)
                    wide[:, : old_ranks[site]] = stacked.view(groups, old_ranks[site], -1)

    def _empty(self, site: int, side: int) -> Tensor:
        rows = self.slots * self._width(site)
        return torch.zeros((rows, self._sizes[site][side]), device=self._device, dtype=self._dtype)


class SlotTerms:
    """The LoRA terms of one batch."""

    def __init__(
        self, a: list[list[Tensor]], b: list[list[Pieces]], strangers: Tensor | None
    ) -> None:
        """strangers: (rows, slots in the span, 1) bool, the slots that are not a row's own.

        None where all rows use the one slot of the span.
        """
        self._a, self._b, self._strangers = a, b, strangers

    def add(self, layer: int, site: int, x: Tensor, out: Tensor) -> None:
        """out += (x A) B, each row with its own slot's pair."""
        z = torch.mm(x, self._a[layer][site])
        if self._strangers is not None:
            # Not a product with zeros: one adapter's overflow must not reach another's rows.
            z.view(len(z), self._strangers.shape[1], -1).masked_fill_(self._strangers, 0)
        for columns, b in self._b[layer][site]:
            out.addmm_(z[:, columns], b)

    def repeated(self, counts: Tensor, total: int) -> "SlotTerms":
        """For `total` tokens: row i stands for `counts[i]` of them, nobody for the rest."""
        if self._strangers is None:
            return self
        strangers = self._strangers.repeat_interleave(counts, dim=0)
        rest = (0, 0, 0, 0, 0, total - len(strangers))
        return SlotTerms(self._a, self._b, pad(strangers, rest, value=True))


def _pieces(b: Tensor, width: int) -> Pieces:
    """As many slots of `width` rows together as `steady.DEPTH` lets; at least one."""
    step = max(1, steady.DEPTH // width) * width
    return [(slice(at, at + step), b[at : at + step]) for at in range(0, len(b), step)]


def site_sizes(shape: Architecture) -> list[tuple[int, int]]:
    """(in, out) of each site."""
    wide = shape.num_heads * shape.head_size
    return [
        (shape.hidden_size, wide + shape.kv_width),
        (wide, shape.hidden_size),
        (shape.hidden_size, 2 * shape.intermediate_size),
        (shape.intermediate_size, shape.hidden_size),
    ]
