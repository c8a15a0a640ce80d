"""Rows as a tree give the loss and the gradient of flat rows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_training.layout import Layout, layouts
from adapter_training.lora import LoraModel
from adapter_training.passes import Tally, backward
from adapter_training.rows import Row
from adapter_training.streams import Shares, streams
from appliance.core.digests import Digest
from appliance.core.recipe import Recipe

_SHARES = Shares(likelihood=0.01, divergence=0.02)
_short_rows = st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=8), min_size=1, max_size=9)


def row(ids: list[int], first: int = 1, behaviour: bool = False) -> Row:
    targets = np.arange(first, len(ids))
    mu = np.linspace(-3, -1, len(targets), dtype=np.float32) if behaviour else None
    return Row(
        ids=np.array(ids, dtype=np.int64),
        targets=targets,
        weight=0.0 if behaviour else 1.0,
        advantage=0.5 if behaviour else 0.0,
        behaviour=mu,
    )


@given(_short_rows, st.integers(1, 64))
@settings(max_examples=100)
def test_every_token_sees_exactly_its_own_row(rows: list[list[int]], max_tokens: int) -> None:
    made = [row(ids) for ids in rows]
    taken: list[int] = []
    for layout in layouts(made, range(len(made)), max_tokens=max_tokens):
        sees = what_each_sees(layout)
        for index, places in zip(layout.rows, layout.nodes, strict=True):
            taken.append(index)
            assert layout.ids[places].tolist() == rows[index]
            assert layout.positions[places].tolist() == list(range(len(places)))
            for depth, place in enumerate(places):
                assert sees[place] == places[: depth + 1].tolist()
    assert sorted(taken) == list(range(len(rows)))


def what_each_sees(layout: Layout) -> dict[int, list[int]]:
    """Place → the places that its attention reads, from the position that `order` points to."""
    every: list[list[int]] = []
    for group in layout.groups:
        for number, branch in enumerate(group.branches):
            for at in range(len(branch)):
                path = group.paths[number]
                seen = (
                    path[: at + 1] if group.visible is None else path[group.visible[number, 0, at]]
                )
                every.append(seen.tolist())
    return {place: every[at] for place, at in enumerate(layout.order)}


def test_a_shared_prefix_stands_once() -> None:
    prefix = list(range(100))
    made = [row([*prefix, 200 + i]) for i in range(20)]
    (layout,) = layouts(made, range(20), max_tokens=4096)
    assert len(layout.ids) == 120


def test_a_layout_holds_its_tokens_or_one_longer_row() -> None:
    made = [row([1, *range(50)]), row([2, 3, 4]), row([2, 3, 5])]
    sizes = [len(layout.ids) for layout in layouts(made, range(3), max_tokens=10)]
    assert sizes == [51, 4]


@pytest.fixture(scope="module")
def model(base_folder: Path) -> LoraModel:
    model = LoraModel(base_folder, Digest("sha256:" + "a" * 64), Recipe())
    with torch.no_grad():
        for parameter in model.parameters().values():
            parameter.normal_(std=0.1)
    return model


def step(model: LoraModel, rows: list[Row], made: list[Layout]) -> tuple[float, torch.Tensor]:
    parameters = list(model.parameters().values())
    for parameter in parameters:
        parameter.grad = None
    tally = Tally()
    for layout in made:
        backward(model, layout, streams(rows, layout, _SHARES), tally, cap=2.0, watched=True)
    return tally.loss, torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None])


def test_a_tree_has_the_loss_and_the_gradient_of_flat_rows(model: LoraModel) -> None:
    draw = np.random.default_rng(0)
    prompt = draw.integers(0, 250, 60).tolist()
    rows = []
    for number in range(12):
        # Conversations that part at different turns, some of them with behaviour logprobs.
        kept = prompt[: 20 + 10 * (number % 5)]
        ids = [*kept, *draw.integers(0, 250, 5 + number).tolist()]
        rows.append(row(ids, first=len(kept), behaviour=number % 2 == 0))
    tree = layouts(rows, range(len(rows)), max_tokens=4096)
    flat = [one for i in range(len(rows)) for one in layouts(rows, [i], max_tokens=1)]
    assert sum(len(layout.ids) for layout in tree) < sum(len(layout.ids) for layout in flat) / 2
    tree_loss, tree_gradient = step(model, rows, tree)
    flat_loss, flat_gradient = step(model, rows, flat)
    assert tree_loss == pytest.approx(flat_loss, rel=1e-5)
    assert (tree_gradient - flat_gradient).norm() < 1e-5 * flat_gradient.norm()
