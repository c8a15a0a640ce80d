"""One decoding step for all rows: from their last ids to the next ones' logits."""

import torch
from torch import Tensor

from appliance.inference import steady
from appliance.inference.attention import Decode
from appliance.inference.graphs import Graphs
from appliance.inference.kv_pages import GatheredPages, Pages
from appliance.inference.lora import LoraSlots, SlotTerms
from appliance.inference.model import Model
from appliance.inference.sequence import Rows


class Decoder:
    """Runs steps; keeps what does not change between them."""

    def __init__(self, model: Model, pages: Pages, lora: LoraSlots) -> None:
        self._model, self._pages, self._lora = model, pages, lora
        self._terms: SlotTerms | None = None
        self._terms_of: list[int] | None = None
        self._graphs = Graphs(model, pages, lora) if isinstance(pages, GatheredPages) else None

    def adapters_changed(self) -> None:
        """Look again at what is in the slots."""
        self._terms_of = None

    def logits(self, rows: Rows, slots: list[int]) -> Tensor:
        """The next token's logits of the first rows, and of some that are nobody's: (…, vocab).

        slots: the adapter slot of each row that is somebody's.
        """
        count = len(slots)
        longest = int(rows.position[:count].max()) + 1
        if self._graphs is not None:
            return self._graphs.logits(rows, slots, longest)
        size = steady.rows(count)
        ids = torch.from_numpy(rows.last_id[:size]).to(self._model.device)
        positions = torch.from_numpy(rows.position[:size]).to(self._model.device)
        model = self._model
        attend = Decode(model.shape, self._pages, positions, count, longest, model.dtype)
        return model.logits(model.hidden(ids, positions, attend, self._slot_terms(slots, size)))

    def _slot_terms(self, slots: list[int], size: int) -> SlotTerms | None:
        if slots != self._terms_of:
            # Whoever is alone in a batch has no blanks, so neither need rows that are nobody's.
            alone = len(set(slots)) == 1
            others = slots[:1] if alone else [-1]
            self._terms = self._lora.terms(slots + others * (size - len(slots)))
            self._terms_of = list(slots)
        return self._terms
