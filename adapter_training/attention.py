"""Attention over a tree of tokens: each branch attends to its own path from the root.

Keys and values are computed once for every distinct prefix and gathered per branch, so a shared
prefix costs nothing but the reading of it. Gradients add up where paths meet.
"""

from typing import Any

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from adapter_training.layout import Layout

NAME = "espalier_tree"


class TreeGroup(msgspec.Struct, frozen=True, kw_only=True):
    """`layout.Group` as tensors."""

    branches: Tensor
    paths: Tensor
    visible: Tensor | None


class Tree(msgspec.Struct, frozen=True, kw_only=True):
    """What attention needs to know of a layout."""

    groups: tuple[TreeGroup, ...]
    order: Tensor

    @classmethod
    def of(cls, layout: Layout) -> "Tree":
        """The layout's groups as tensors."""
        groups = tuple(
            TreeGroup(
                branches=torch.from_numpy(group.branches),
                paths=torch.from_numpy(group.paths),
                visible=None if group.visible is None else torch.from_numpy(group.visible),
            )
            for group in layout.groups
        )
        return cls(groups=groups, order=torch.from_numpy(layout.order))


def tree_attention(
    module: Any,  # noqa: ARG001 - the signature is that of transformers' attention functions
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - the tree says who sees whom
    *,
    tree: Tree,
    scaling: float,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention output, (1, tokens, heads, head size).

    Args:
        query: (1, heads, tokens, head size).
        key: (1, KV heads, tokens, head size); every KV head serves heads / KV heads heads.
        value: like `key`.
    """
    queries, keys, values = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
    repeats = queries.shape[1] // keys.shape[1]
    outputs: list[Tensor] = []
    for group in tree.groups:
        q = _gather(queries, group.branches)
        k = _gather(keys, group.paths).repeat_interleave(repeats, dim=1)
        v = _gather(values, group.paths).repeat_interleave(repeats, dim=1)
        out = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=group.visible, is_causal=group.visible is None, scale=scaling
        )
        outputs.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).index_select(0, tree.order)[None], None


def _gather(tokens: Tensor, places: Tensor) -> Tensor:
    """(tokens, heads, size) at (branches, length) places → (branches, heads, length, size)."""
    picked = tokens.index_select(0, places.reshape(-1))
    return picked.view(*places.shape, *tokens.shape[1:]).transpose(1, 2)
