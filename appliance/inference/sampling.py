"""Drawing tokens: one number per (seed, choice, position), whatever else is in the batch."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
# The largest number below 1 that a float32 sum of probabilities still tells from 1.
_BELOW_ONE = 1.0 - 2.0**-23


def noise(seed: int, choice: int, count: int) -> NDArray[np.float32]:
    """`count` numbers in [0, 1), one per position: splitmix64 at counters, no state."""
    with np.errstate(over="ignore"):
        stream = _mix(np.uint64(seed & 0xFFFFFFFFFFFFFFFF) + _GOLDEN * np.uint64(choice + 1))
        mixed = _mix(stream + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64))
    uniform: NDArray[np.float32] = np.asarray(mixed >> np.uint64(11), dtype=np.float32) * 2.0**-53
    return np.minimum(uniform, np.float32(_BELOW_ONE))


def _mix(x: "np.uint64 | NDArray[np.uint64]") -> "NDArray[np.uint64]":
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


@dataclass(slots=True)
class Batch:
    """How each row is sampled: CPU arrays, one entry a row."""

    temperature: NDArray[np.float32]
    """0 takes the likeliest token."""
    top_p: NDArray[np.float32]
    top_k: NDArray[np.int64]
    uniform: NDArray[np.float32]


def sample(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one token a row by inverting the cumulative distribution in id order.

    logits: (rows, vocab) float32, changed in place. Returns ids (rows,), their logprobs (rows,)
    under the distribution drawn from, and that distribution (rows, vocab). A greedy row's
    distribution is the softmax at temperature 1.
    """
    device = logits.device
    greedy = batch.temperature == 0
    if (batch.temperature != 1).any():
        divisor = np.where(greedy, np.float32(1), batch.temperature)
        logits.div_(torch.from_numpy(divisor).to(device)[:, None])
    probs = torch.softmax(logits, dim=-1)
    if greedy.all():
        ids = logits.argmax(dim=-1)
    else:
        _truncate(probs, batch, greedy)
        ids = _invert(probs, torch.from_numpy(batch.uniform).to(device))
        if greedy.any():
            ids = torch.where(torch.from_numpy(greedy).to(device), logits.argmax(dim=-1), ids)
    logprobs = probs.gather(1, ids[:, None]).log().squeeze(1)
    return ids, logprobs, probs


def _invert(probs: Tensor, uniform: Tensor) -> Tensor:
    cumulative = probs.cumsum(dim=-1)
    wanted = uniform[:, None] * cumulative[:, -1:]
    found = torch.searchsorted(cumulative, wanted, right=True).squeeze(1)
    return found.clamp_max_(probs.shape[1] - 1)


def _truncate(probs: Tensor, batch: Batch, greedy: NDArray[np.bool_]) -> None:
    """Apply top_k, then top_p, to the rows that ask for them, in place."""
    rows = np.flatnonzero(((batch.top_p < 1) | (batch.top_k > 0)) & ~greedy)
    if not len(rows):
        return
    at = torch.from_numpy(rows).to(probs.device)
    top_p = torch.from_numpy(batch.top_p[rows]).to(probs.device)[:, None]
    top_k = torch.from_numpy(batch.top_k[rows]).to(probs.device)[:, None]
    ordered, order = probs[at].sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(probs.shape[1], device=probs.device)
    ordered.masked_fill_((rank >= top_k) & (top_k > 0), 0)
    ordered.div_(ordered.sum(dim=-1, keepdim=True))
    # A token stays while the mass before it is below top_p: the likeliest always does.
    before = ordered.cumsum(dim=-1) - ordered
    ordered.masked_fill_((before >= top_p) & (rank > 0), 0)
    ordered.div_(ordered.sum(dim=-1, keepdim=True))
    probs[at] = torch.zeros_like(ordered).scatter_(1, order, ordered)
