"""Matrix products with a base's fixed weights.

On a CPU, PyTorch's float32 product goes to MKL, which on some processors runs at a third of their
speed; oneDNN, which comes with PyTorch too, does not, and is faster still on weights that it has
laid out beforehand (benchmarks/linear.py). A call costs more, so small matrices stay where they
are. `torch.ops.mkldnn` is what torch.compile uses; torch is pinned, and where it lacks these we do
without.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""(tokens, in) → (tokens, out)."""

_SMALLEST = 1 << 18
"""Numbers in a matrix from which on oneDNN is worth its call."""
_ROWS = 32
"""The layout is chosen for about this many rows; it serves one and a thousand as well."""


def product(weight: Tensor, bias: Tensor | None = None, *, keep: bool = False) -> Product:
    """x → x @ weight.T + bias; weight: (out, in). With `keep` no second copy of it is made."""
    if not fits_onednn(weight):
        return _plain(weight.t(), bias)
    # Laid-out weights are opaque: the caller lets go of the plain ones.
    laid_out = weight if keep else torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
    return _onednn(laid_out, bias)


def _plain(columns: Tensor, bias: Tensor | None) -> Product:
    if bias is None:
        return lambda x: torch.mm(x, columns)
    return lambda x: torch.addmm(bias, x, columns)


def _onednn(weight: Tensor, bias: Tensor | None) -> Product:
    linear: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise
    return lambda x: linear(x, weight, bias, "none", [], "")


def fits_onednn(weight: Tensor) -> bool:
    """Whether this PyTorch's oneDNN multiplies by such a weight, and it is large enough to gain."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.numel() >= _SMALLEST
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch's gap
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
