"""Logprobs of given ids, a bounded number of tokens at a time."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from appliance.core.digests import Digest
from appliance.core.errors import EspalierError
from appliance.inference.attention import Teach
from appliance.inference.lora import LoraSlots
from appliance.inference.model import Model

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

    def next_rows(self, max_tokens: int) -> list[list[int]]:
        """The next rows that fit; at least one."""
        rows = self.ids[len(self.logprobs) :]
        longest, count = 0, 0
        for row in rows:
            longest = max(longest, len(row))
            if count and longest * (count + 1) > max_tokens:
                break
            count += 1
        return rows[:count]


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
    hidden, targets = hidden[at], ids[at + 1]
    flat: list[float] = []
    step = max(1, _LOGITS_MAX // model.shape.vocab_size)
    for first in range(0, len(at), step):
        logits = model.logits(hidden[first : first + step])
        chosen = logits.gather(1, targets[first : first + step, None]).squeeze(1)
        flat += (chosen - logits.logsumexp(dim=-1)).tolist()
    scores, begin = [], 0
    for count in counts:
        scores.append(flat[begin : begin + count - 1])
        begin += count - 1
    return scores
