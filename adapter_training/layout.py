"""How rows lie in a forward pass.

Agents' rows share long beginnings: a system prompt, few-shot turns, the earlier turns of the same
conversation. Rows are laid out as a tree in which every distinct prefix stands once: a token's
position is its depth, and it attends to its ancestors only. The result is that of flat rows, for
fewer tokens and without padding (tests/adapter_training/test_layout.py compares loss and gradient).
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from adapter_training.rows import Ints, Row

# Branches in one group have at least this share of the longest one's length: the rest is padding.
_EVENNESS = 0.6


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Branches of similar length, which attend together.

    A branch is what one row adds to the tree: the end of its path from the root.
    """

    branches: Ints
    """(branches, length) places of their tokens, padded with the last one."""
    paths: Ints
    """(branches, path length) places from the root on, padded with the last one."""
    visible: NDArray[np.bool_] | None
    """(branches, 1, length, path length), or None where plain causal attention is the same."""


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """Some rows as one tree of tokens."""

    rows: tuple[int, ...]
    nodes: tuple[Ints, ...]
    """For each row, the place of each of its tokens."""
    ids: Ints
    positions: Ints
    groups: tuple[Group, ...]
    order: Ints
    """For each place, where it stands among the groups' branches laid end to end."""


def layouts(rows: Sequence[Row], chosen: Sequence[int], *, max_tokens: int) -> list[Layout]:
    """Lay out the chosen rows; a layout holds at most `max_tokens`, or a single row."""
    result: list[Layout] = []
    tree = _Tree()
    # Neighbours in this order share the longest prefixes.
    for index in sorted(chosen, key=lambda i: (rows[i].ids.tolist(), i)):
        ids = rows[index].ids.tolist()
        if tree.rows and len(tree.ids) + tree.num_new(ids) > max_tokens:
            result.append(tree.layout())
            tree = _Tree()
        tree.add(index, ids)
    if tree.rows:
        result.append(tree.layout())
    return result


class _Tree:
    """A layout being filled."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.rows: list[int] = []
        self._positions: list[int] = []
        self._nodes: list[Ints] = []
        self._branches: list[tuple[Ints, Ints]] = []
        self._children: dict[tuple[int, int], int] = {}

    def num_new(self, ids: Sequence[int]) -> int:
        """Tokens that adding this row would add."""
        return len(ids) - len(self._shared(ids))

    def add(self, index: int, ids: Sequence[int]) -> None:
        path = self._shared(ids)
        first = len(path)
        for token in ids[first:]:
            place = len(self.ids)
            self._children[path[-1] if path else -1, token] = place
            self.ids.append(token)
            self._positions.append(len(path))
            path.append(place)
        places = np.array(path, dtype=np.int64)
        self.rows.append(index)
        self._nodes.append(places)
        if first < len(path):
            self._branches.append((places[first:], places))

    def layout(self) -> Layout:
        groups = [_group(part) for part in _alike(self._branches)]
        flat = np.concatenate([group.branches.reshape(-1) for group in groups])
        # A place that padding repeats is read where it stands first: there it sees no padding.
        _, order = np.unique(flat, return_index=True)
        return Layout(
            rows=tuple(self.rows),
            nodes=tuple(self._nodes),
            ids=np.array(self.ids, dtype=np.int64),
            positions=np.array(self._positions, dtype=np.int64),
            groups=tuple(groups),
            order=order,
        )

    def _shared(self, ids: Sequence[int]) -> list[int]:
        """Places of the longest beginning of `ids` that is in the tree already."""
        path: list[int] = []
        node = -1
        for token in ids:
            child = self._children.get((node, token))
            if child is None:
                break
            path.append(child)
            node = child
        return path


def _alike(branches: Sequence[tuple[Ints, Ints]]) -> list[list[tuple[Ints, Ints]]]:
    """Branches cut into groups of similar length, of branch and of path."""
    ordered = sorted(branches, key=lambda b: (len(b[0]), len(b[1])), reverse=True)
    parts: list[list[tuple[Ints, Ints]]] = []
    for branch in ordered:
        first = parts[-1][0] if parts else None
        if first and all(
            len(own) >= _EVENNESS * len(longest) for own, longest in zip(branch, first, strict=True)
        ):
            parts[-1].append(branch)
        else:
            parts.append([branch])
    return parts


def _group(branches: Sequence[tuple[Ints, Ints]]) -> Group:
    own, paths = (_padded([branch[side] for branch in branches]) for side in (0, 1))
    starts = np.array([len(path) - len(branch) for branch, path in branches])
    # Padding comes last, so under causal attention no real token sees it.
    if not starts.any() and own.shape == paths.shape:
        return Group(branches=own, paths=paths, visible=None)
    depth = starts[:, None] + np.arange(own.shape[1])
    visible = np.arange(paths.shape[1]) <= depth[:, :, None]
    return Group(branches=own, paths=paths, visible=visible[:, None])


def _padded(rows: Sequence[Ints]) -> Ints:
    width = max(map(len, rows))
    return np.array([np.pad(row, (0, width - len(row)), mode="edge") for row in rows])
