"""One forward and backward pass over a layout, adding to the adapter's gradients.

Only the trained positions go through the head, a chunk at a time: logits over a large vocabulary
are the largest thing in training and none of them outlives its chunk.
"""

import msgspec
import torch
from torch import Tensor

from adapter_training.layout import Layout, layouts
from adapter_training.linear import linear
from adapter_training.lora import LoraModel
from adapter_training.losses import kl, outcome_pg, supervised
from adapter_training.rows import Row
from adapter_training.streams import Streams

_CHUNK_LOGITS = 8_000_000


class Tally(msgspec.Struct, kw_only=True):
    """Sums over one step; `losses` are in the step's own units, the rest counts tokens."""

    supervised: float = 0.0
    policy: float = 0.0
    divergence: float = 0.0
    entropy: float = 0.0
    num_tokens: int = 0
    predicted: dict[int, int] = {}
    """How often each token was the most likely one, over the examples' positions."""

    @property
    def loss(self) -> float:
        """What the step minimises."""
        return self.supervised + self.policy + self.divergence


def backward(
    model: LoraModel, layout: Layout, batch: Streams, tally: Tally, *, cap: float, watched: bool
) -> None:
    """Add the gradients of this layout's losses, and their sums to `tally`.

    Args:
        cap: the largest importance weight.
        watched: whether these answers count for the tally's entropy and predictions.
    """
    diverging = bool(batch.divergence.any())
    base: Tensor | None = None
    if diverging:
        with model.as_base():
            base = model.hidden(layout).index_select(0, batch.nodes)
    hidden = model.hidden(layout).index_select(0, batch.nodes)
    leaf = hidden.detach().requires_grad_()
    size = max(1, _CHUNK_LOGITS // model.vocabulary)
    for start in range(0, len(leaf), size):
        part = slice(start, start + size)
        logits = linear(leaf[part], model.head)
        logprobs = logits.log_softmax(-1)
        chosen = logprobs.gather(-1, batch.targets[part, None])[:, 0]
        likelihood = supervised(chosen, batch.supervised[part])
        policy = outcome_pg(chosen, batch.behaviour[part], batch.advantages[part], cap)
        loss = likelihood + policy
        if base is not None:
            base_logits = linear(base[part], model.head)
            divergence = kl(logits, base_logits, batch.divergence[part])
            loss = loss + divergence
            tally.divergence += float(divergence.detach())
        loss.backward()  # type: ignore[no-untyped-call]
        tally.supervised += float(likelihood.detach())
        tally.policy += float(policy.detach())
        if watched:
            _watch(tally, logprobs.detach())
    hidden.backward(leaf.grad)  # type: ignore[no-untyped-call]


def logprobs_of(model: LoraModel, row: Row) -> list[float]:
    """Logprob of each token of the row after the first, given those before it."""
    (layout,) = layouts([row], [0], max_tokens=len(row.ids))
    with torch.no_grad():
        hidden = model.hidden(layout)
        logprobs = linear(hidden[:-1], model.head).log_softmax(-1)
        chosen = logprobs.gather(-1, torch.from_numpy(row.ids[1:, None]))
        values: list[float] = chosen[:, 0].tolist()
        return values


def _watch(tally: Tally, logprobs: Tensor) -> None:
    tally.entropy -= float((logprobs.exp() * logprobs).sum())
    tally.num_tokens += len(logprobs)
    for token in logprobs.argmax(-1).tolist():
        tally.predicted[token] = tally.predicted.get(token, 0) + 1
