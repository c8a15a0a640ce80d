"""Logprobs of given ids, a bounded number of tokens at a time."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from appliance.core.digests import Digest
from appliance.core.errors import EspalierError
from appliance.inference import steady
from appliance.inference.attention import Fill, Teach
from appliance.inference.kv_pages import PlainRows
from appliance.inference.lora import LoraSlots
from appliance.inference.model import Model

SCORE_TOKENS = 512
"""What is scored between two steps of those who wait for an answer."""
_LOGITS_MAX = 1 << 24


@dataclass(slots=True, eq=False)
class ScoreJob:
    """A score request under way; `done` gets the answer."""

    ids: list[list[int]]
    adapter: Digest | None
    done: Callable[[list[list[float]]], None]
    failed: Callable[[EspalierError], None]
    slot: int = -1
    logprobs: list[list[float]] = field(default_factory=list)
    _long: "LongRow | None" = None

    def advance(self, model: Model, lora: LoraSlots) -> bool:
        """Score a little; whether all is done."""
        rows = self._next_rows()
        if rows and len(rows[0]) > SCORE_TOKENS:
            self._long = self._long or LongRow(model, rows[0])
            if self._long.advance(lora, self.slot):
                self.logprobs.append(self._long.logprobs)
                self._long = None
        elif rows:
            self.logprobs += score(model, lora, rows, self.slot)
        return len(self.logprobs) == len(self.ids)

    def _next_rows(self) -> list[list[int]]:
        """The next rows that fit; at least one, where there is one."""
        rows = self.ids[len(self.logprobs) :]
        longest, count = 0, 0
        for row in rows:
            longest = max(longest, len(row))
            if count and longest * (count + 1) > SCORE_TOKENS:
                break
            count += 1
        return rows[:count]


class LongRow:
    """A row that is scored piece by piece, with keys and values of its own."""

    def __init__(self, model: Model, row: list[int]) -> None:
        self.logprobs: list[float] = []
        self._model = model
        self._ids = torch.tensor(row, device=model.device)
        self._done = 0
        size = (model.shape.num_layers, 1, steady.keys(len(row)), model.shape.kv_width)
        self._rows = PlainRows(torch.zeros(size, device=model.device, dtype=model.dtype))

    def advance(self, lora: LoraSlots, slot: int) -> bool:
        """Score the next piece; whether it was the last."""
        begin, end = self._done, min(self._done + SCORE_TOKENS, len(self._ids))
        model, count = self._model, end - begin
        attend = Fill(model.shape, self._rows, 0, [begin], [count], model.device, model.dtype)
        ids = steady.padded(self._ids[begin:end], len(attend.positions))
        hidden = model.hidden(ids, attend.positions, attend, lora.terms([slot]))
        targets = self._ids[begin + 1 : end + 1]
        self.logprobs += _logprobs(model, hidden[: len(targets)], targets)
        self._done = end
        return end == len(self._ids)


def score(model: Model, lora: LoraSlots, rows: list[list[int]], slot: int) -> list[list[float]]:
    """result[i][j]: the logprob of rows[i][j + 1] after rows[i][: j + 1], at temperature 1."""
    counts = [len(row) for row in rows]
    attend = Teach(model.shape, counts, model.device)
    ids = torch.tensor([token for row in rows for token in row], device=model.device)
    hidden = model.hidden(ids, attend.positions, attend, lora.terms([slot]))
    ends = torch.tensor(counts).cumsum(0) - 1
    keep = torch.ones(len(ids), dtype=torch.bool)
    keep[ends] = False
    at = keep.nonzero().squeeze(1).to(model.device)
    flat = _logprobs(model, hidden[at], ids[at + 1])
    scores, begin = [], 0
    for count in counts:
        scores.append(flat[begin : begin + count - 1])
        begin += count - 1
    return scores


def _logprobs(model: Model, hidden: Tensor, targets: Tensor) -> list[float]:
    """Of each target after its hidden state, a bounded number of logits at a time."""
    logprobs: list[float] = []
    step = max(1, _LOGITS_MAX // model.shape.vocab_size)
    for first in range(0, len(targets), step):
        logits = model.logits(hidden[first : first + step])
        chosen = logits.gather(1, targets[first : first + step, None]).squeeze(1)
        logprobs += (chosen - logits.logsumexp(dim=-1)).tolist()
    return logprobs
