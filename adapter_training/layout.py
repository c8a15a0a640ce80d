"""How rows lie in a forward pass.

Agents' rows share long beginnings: a system prompt, few-shot turns, the earlier turns of the same
conversation. A pack lays its rows out as a tree in which every distinct prefix stands once: a
token's position is its depth, and it attends to its ancestors only. The result is that of flat
rows, for fewer tokens (tests/adapter_training/test_layout.py compares loss and gradient).
"""

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from adapter_training.rows import Ints, Row

PACK_TOKENS = 384
"""A pack holds at most so many tokens, or one longer row: attention costs the square of it."""


class Pack(msgspec.Struct, frozen=True, kw_only=True):
    """Some rows as one tree of tokens."""

    rows: tuple[int, ...]
    ids: Ints
    parents: Ints
    """Index of the token before; -1 at the start of a row."""
    nodes: tuple[Ints, ...]
    """For each row, the place of each of its tokens."""


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """Several packs side by side, as the decoder takes them."""

    rows: tuple[int, ...]
    ids: Ints
    """(packs, length)"""
    positions: Ints
    """(packs, length)"""
    visible: NDArray[np.bool_] | None
    """(packs, 1, length, length), or None where plain causal attention is the same."""
    nodes: tuple[Ints, ...]
    """For each row, the place of each of its tokens in ids.reshape(-1)."""


def layouts(rows: Sequence[Row], chosen: Sequence[int], *, max_tokens: int) -> list[Layout]:
    """Lay out the chosen rows; a layout holds at most `max_tokens`, or a single pack."""
    # Neighbours in this order share the longest prefixes.
    order = sorted(chosen, key=lambda i: (rows[i].ids.tolist(), i))
    packs = sorted(_packs(rows, order), key=lambda p: len(p.ids))
    result: list[Layout] = []
    batch: list[Pack] = []
    for pack in packs:
        if batch and len(pack.ids) * (len(batch) + 1) > max_tokens:
            result.append(_layout(batch))
            batch = []
        batch.append(pack)
    if batch:
        result.append(_layout(batch))
    return result


def _packs(rows: Sequence[Row], order: Sequence[int]) -> Iterator[Pack]:
    tree = _Tree()
    for index in order:
        ids = rows[index].ids
        if tree.rows and len(tree.ids) + tree.num_new(ids) > PACK_TOKENS:
            yield tree.pack()
            tree = _Tree()
        tree.add(index, ids)
    if tree.rows:
        yield tree.pack()


class _Tree:
    """A pack being filled."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.rows: list[int] = []
        self._parents: list[int] = []
        self._nodes: list[Ints] = []
        self._children: dict[tuple[int, int], int] = {}

    def num_new(self, ids: Ints) -> int:
        """Tokens that adding this row would add."""
        node = -1
        for depth, token in enumerate(ids.tolist()):
            child = self._children.get((node, token))
            if child is None:
                return len(ids) - depth
            node = child
        return 0

    def add(self, index: int, ids: Ints) -> None:
        node, path = -1, []
        for token in ids.tolist():
            child = self._children.get((node, token))
            if child is None:
                child = len(self.ids)
                self._children[node, token] = child
                self.ids.append(token)
                self._parents.append(node)
            path.append(child)
            node = child
        self.rows.append(index)
        self._nodes.append(np.array(path, dtype=np.int64))

    def pack(self) -> Pack:
        return Pack(
            rows=tuple(self.rows),
            ids=np.array(self.ids, dtype=np.int64),
            parents=np.array(self._parents, dtype=np.int64),
            nodes=tuple(self._nodes),
        )


def _layout(packs: Sequence[Pack]) -> Layout:
    length = max(len(p.ids) for p in packs)
    ids = np.zeros((len(packs), length), dtype=np.int64)
    positions = np.zeros_like(ids)
    for number, pack in enumerate(packs):
        ids[number, : len(pack.ids)] = pack.ids
        for token, parent in enumerate(pack.parents):
            positions[number, token] = positions[number, parent] + 1 if parent >= 0 else 0
    # Padding comes last, so under causal attention no real token sees it.
    plain = all(_is_path(pack) for pack in packs)
    return Layout(
        rows=tuple(row for pack in packs for row in pack.rows),
        ids=ids,
        positions=np.broadcast_to(np.arange(length), ids.shape).copy() if plain else positions,
        visible=None if plain else _visible(packs, length),
        nodes=tuple(
            number * length + nodes for number, pack in enumerate(packs) for nodes in pack.nodes
        ),
    )


def _is_path(pack: Pack) -> bool:
    return bool((pack.parents == np.arange(len(pack.parents)) - 1).all())


def _visible(packs: Sequence[Pack], length: int) -> NDArray[np.bool_]:
    """Which token sees which: its ancestors and itself."""
    visible = np.zeros((len(packs), 1, length, length), dtype=np.bool_)
    for number, pack in enumerate(packs):
        sees = visible[number, 0]
        for token, parent in enumerate(pack.parents):
            if parent >= 0:
                sees[token] = sees[parent]
            sees[token, token] = True
        # A padded position must see something, or its softmax is empty.
        for token in range(len(pack.ids), length):
            sees[token, token] = True
    return visible
