"""The forward pass. Attention and LoRA come in from outside, because they differ by what is run."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, silu

from appliance.inference.architecture import Architecture
from appliance.inference.weights import Weights


class Attend(Protocol):
    """How the tokens of a forward pass see each other and the cache."""

    def __call__(self, layer: int, qkv: Tensor) -> Tensor:
        """(tokens, (heads + 2 * kv heads) * head size), rotated → (tokens, heads * head size)."""


class LoraTerms(Protocol):
    """What the adapters of a batch add to the four products of a layer."""

    def add(self, layer: int, site: int, x: Tensor, out: Tensor) -> None:
        """Add to `out`, in place; `site` is an index into weights.SITES."""


class Model:
    """A Llama-type decoder over packed tokens."""

    def __init__(self, shape: Architecture, weights: Weights) -> None:
        self.shape = shape
        self.device = weights.embedding.device
        self.dtype = weights.embedding.dtype
        self._weights = weights
        self._turns = _turns(shape, self.device)
        self._rotated = (shape.num_heads + shape.num_kv_heads) * shape.head_size

    def hidden(
        self, ids: Tensor, positions: Tensor, attend: Attend, lora: LoraTerms | None
    ) -> Tensor:
        """Last hidden states, normed: (tokens, hidden). ids, positions: (tokens,) int64."""
        shape, norm_shape = self.shape, (self.shape.hidden_size,)
        turn = self._turns[positions].unsqueeze(1)
        x = self._weights.embedding[ids]
        for index, layer in enumerate(self._weights.layers):
            h = rms_norm(x, norm_shape, layer.attention_norm, shape.norm_eps)
            qkv = layer.qkv(h)
            if lora is not None:
                lora.add(index, 0, h, qkv)
            self._rotate(qkv, turn)
            h = attend(index, qkv)
            out = layer.o(h)
            if lora is not None:
                lora.add(index, 1, h, out)
            x = x + out
            h = rms_norm(x, norm_shape, layer.mlp_norm, shape.norm_eps)
            gate_up = layer.gate_up(h)
            if lora is not None:
                lora.add(index, 2, h, gate_up)
            h = silu(gate_up[:, : shape.intermediate_size]) * gate_up[:, shape.intermediate_size :]
            out = layer.down(h)
            if lora is not None:
                lora.add(index, 3, h, out)
            x = x + out
        return rms_norm(x, norm_shape, self._weights.norm, shape.norm_eps)

    def logits(self, hidden: Tensor) -> Tensor:
        """(tokens, vocab) float32."""
        return self._weights.head(hidden).float()

    def _rotate(self, qkv: Tensor, turn: Tensor) -> None:
        """Turn queries and keys by their positions, in place."""
        part = qkv[:, : self._rotated].view(len(qkv), -1, self.shape.head_size // 2, 2)
        if self.dtype == torch.float32:
            torch.view_as_complex(part).mul_(turn)
        else:
            part.copy_(torch.view_as_real(torch.view_as_complex(part.float()) * turn))


def _turns(shape: Architecture, device: torch.device) -> Tensor:
    """(context length, head size / 2) complex64: cos + i sin of position times frequency."""
    # float32, as transformers computes it: beyond a few thousand positions the rounding shows.
    frequencies = torch.tensor(shape.inverse_frequencies, dtype=torch.float32)
    angles = torch.outer(torch.arange(shape.context_length, dtype=torch.float32), frequencies)
    return torch.polar(torch.ones_like(angles), angles).to(device)


def padded_index(
    lengths: Sequence[int], device: torch.device, longest: int
) -> tuple[Tensor, Tensor]:
    """Where packed tokens stand in a block padded to `longest`, and back.

    Returns `gather`: (rows, longest) index of the packed token (its row's last one in the padding),
    and `scatter`: (tokens,) index into the flattened block.
    """
    counts = torch.tensor(lengths)
    starts = counts.cumsum(0) - counts
    steps = torch.arange(longest)
    gather = starts[:, None] + torch.minimum(steps[None], counts[:, None] - 1)
    scatter = torch.nonzero((steps[None] < counts[:, None]).flatten()).squeeze(1)
    return gather.to(device), scatter.to(device)
