"""Matrix products with the base's frozen weights, forward and backward.

On a CPU, PyTorch's float32 product goes to MKL, which on some processors runs at a third of their
speed; oneDNN, which comes with PyTorch too, does not. Measured on an AVX-512 AMD processor, one
thread, 400 rows, 576 x 1536: 92 against 201 GFLOPS. `torch.ops.mkldnn` is what torch.compile
uses; torch is pinned, and where it lacks this we do without. Small matrices stay where they are:
no faster here, and oneDNN keeps some memory for every number of rows that it has seen.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_SMALLEST = 1 << 18
"""Numbers in a matrix from which on oneDNN is worth it."""


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight.T; x: (tokens, in), weight: (out, in), which gets no gradient."""
    if not _fits_onednn(weight):
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


def _fits_onednn(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.numel() >= _SMALLEST
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch's gap
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
