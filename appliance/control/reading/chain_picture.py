"""The chain of a candidate as a picture: where each box stands, and what leads to what. Pure.

Two columns that are readable 400 pixels wide: what it learnt from, and what it grew from.
"""

from itertools import pairwise

import msgspec

from appliance.control.reading.provenance import THIS, Link, Provenance
from appliance.core.digests import short

_BOX = (168, 46)
_GAP = 26
_LEFT, _RIGHT = 4, 188
_WIDTH = 360
_SHOWN = 3
"""Ancestors that get a box; of the others there is a count."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A box."""

    x: int
    y: int
    width: int
    height: int
    title: str
    detail: str
    state: str


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """An arrow from box to box."""

    x1: int
    y1: int
    x2: int
    y2: int


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """What to draw, and the same in words."""

    width: int
    height: int
    nodes: list[Node]
    edges: list[Edge]
    words: str


def draw(provenance: Provenance) -> Picture:
    """The picture of a chain."""
    learnt = [("trajectories", _fact(provenance.dataset, "trajectories"), "none")]
    learnt.append(_about(provenance.dataset))
    grown = _grown(provenance)
    rows = max(len(grown), len(learnt))
    # Both columns end side by side, right above the candidate.
    left = [_node(_LEFT, rows - len(learnt) + at, one) for at, one in enumerate(learnt)]
    right = [_node(_RIGHT, rows - len(grown) + at, one) for at, one in enumerate(grown)]
    num_signed = len(signers(provenance))
    below = [
        _about(provenance.adapter),
        _about(provenance.scorecard),
        ("approvals", f"{num_signed} signed", "intact" if num_signed else "none"),
        _about(provenance.release),
    ]
    middle = [_node((_WIDTH - _BOX[0]) // 2, rows + at, one) for at, one in enumerate(below)]
    joints = [(left[-1], middle[0]), (right[-1], middle[0])]
    pairs = [*pairwise(left), *pairwise(right), *joints, *pairwise(middle)]
    return Picture(
        width=_WIDTH,
        height=middle[-1].y + _BOX[1] + 4,
        nodes=[*left, *right, *middle],
        edges=[_down(one, other) for one, other in pairs],
        words=_in_words(provenance, learnt[0][1], num_signed),
    )


def signers(provenance: Provenance) -> set[str]:
    """Whose last word about this very candidate is an approval."""
    last: dict[str, str] = {}
    for facts in (dict(link.facts) for link in provenance.approvals):
        if facts.get("counts for") == THIS:
            last[facts["by"]] = facts["decision"]
    return {person for person, decision in last.items() if decision == "approve"}


def _grown(provenance: Provenance) -> list[tuple[str, str, str]]:
    """From the base to the parent."""
    old = provenance.ancestors
    boxes = [_about(one) for one in reversed(old[:_SHOWN])]
    if len(old) > _SHOWN:
        boxes.insert(0, (f"{len(old) - _SHOWN} more", "older ancestors", "none"))
    if provenance.parent.what != "base":
        boxes.insert(0, ("base", "", "none"))
    return [*boxes, _about(provenance.parent)]


def _about(link: Link) -> tuple[str, str, str]:
    detail = short(link.digest) if link.digest else "none yet" if link.what != "base" else ""
    number = _fact(link, "number")
    return f"{link.what} {number}".strip(), detail, link.state


def _fact(link: Link, name: str) -> str:
    return dict(link.facts).get(name, "")


def _node(x: int, row: int, box: tuple[str, str, str]) -> Node:
    title, detail, state = box
    width, height = _BOX
    return Node(
        x=x,
        y=4 + row * (height + _GAP),
        width=width,
        height=height,
        title=title,
        # Never by colour alone.
        detail=f"{detail} {state}" if state in ("damaged", "missing") else detail,
        state=state,
    )


def _down(one: Node, other: Node) -> Edge:
    return Edge(
        x1=one.x + one.width // 2,
        y1=one.y + one.height,
        x2=other.x + other.width // 2,
        y2=other.y,
    )


def _in_words(provenance: Provenance, trajectories: str, num_signed: int) -> str:
    parent = provenance.parent
    grown = "the base" if parent.what == "base" else _about(parent)[0]
    released = "released" if provenance.release.state == "intact" else "not released"
    return (
        f"{trajectories or 'No'} trajectories made the dataset. The candidate was trained on it, "
        f"grown from {grown} ({len(provenance.ancestors)} older ancestors), then judged by a "
        f"scorecard. {num_signed} people approved it; it is {released}."
    )
