"""Matrix products with the base's frozen weights, forward and backward.

Through oneDNN, for the reason that appliance/inference/linear.py gives; benchmarks/linear.py shows
both. Unlike there, the weights stay laid out plainly, because the backward pass needs them turned.
Small matrices stay with PyTorch: no faster here, and oneDNN keeps some memory for every number of
rows that it has seen.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from appliance.inference.linear import fits_onednn


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight.T; x: (tokens, in), weight: (out, in), which gets no gradient."""
    if not fits_onednn(weight):
        return functional.linear(x, weight)
    product: Tensor = _Frozen.apply(x, weight)  # type: ignore[no-untyped-call]  # torch's gap
    return product


def quicken(layer: nn.Linear) -> None:
    """Let a frozen layer compute by `linear`."""

    def forward(x: Tensor) -> Tensor:
        y = linear(x.reshape(-1, layer.in_features), layer.weight)
        y = y.view(*x.shape[:-1], layer.out_features)
        return y if layer.bias is None else y + layer.bias

    layer.forward = forward  # type: ignore[assignment,method-assign]


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.weight = weight
        return _onednn(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _onednn(gradients[0].contiguous(), ctx.weight.t()), None


def _onednn(x: Tensor, weight: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return product
