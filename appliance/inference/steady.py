"""Sizes at which a row's numbers do not depend on what stands beside it (float32, on a CPU).

Matrix products choose a kernel by their sizes, and kernels add in different orders. Three sizes
depend on company: how many tokens go through the model together, how many keys a batch's longest
row has, and how wide the span of adapters in use is. Each is rounded here to where the kernels of
PyTorch's MKL and oneDNN agree; `python -m benchmarks.invariance` shows it for a machine.
"""

import torch
from torch import Tensor

ROWS = 4
"""Below four rows MKL multiplies by vectors, and so does a thread that gets fewer."""
DEPTH = 192
"""The longest sum that MKL does not cut; from twice that on it cuts at multiples of it."""
COLUMNS = 16
"""Fewer of them, and MKL adds in another order."""
_RANK = 8
_QUERIES = 4
_KEYS = 16
_SPLIT = 512
"""Keys that scaled_dot_product_attention takes at a time on a CPU."""


def rows(count: int) -> int:
    """Tokens to send through a product of `count` of them."""
    return -(-count // ROWS) * ROWS


def queries(count: int) -> int:
    """Queries to ask of one key head."""
    return -(-count // _QUERIES) * _QUERIES


def keys(count: int) -> int:
    """Keys to attend to where the longest row has `count`; those past a row's end are masked."""
    whole, rest = divmod(count, _SPLIT)
    if DEPTH < rest < 2 * DEPTH:
        rest = 2 * DEPTH
    return whole * _SPLIT + -(-rest // _KEYS) * _KEYS


def rank(wanted: int, parts: int) -> int:
    """The rank to give to each of `parts` adapters that stand side by side in one product."""
    return max(-(-wanted // _RANK) * _RANK, COLUMNS // parts)


def padded(index: Tensor, count: int) -> Tensor:
    """`index`, filled up to `count` with zeros: rows that are computed and thrown away."""
    if len(index) == count:
        return index
    return torch.cat([index, index.new_zeros(count - len(index))])
