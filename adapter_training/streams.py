"""What each trained token of a layout contributes: one number per token and loss.

The trainer's pass knows nothing of algorithms; a recipe is nothing but weights on these streams.
A step's loss is (1 - replay_share) · its examples + replay_share · its replay rows, each a mean
over its own tokens, + kl_weight · the mean divergence on the replay rows.
"""

from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor

from adapter_training.layout import Layout
from adapter_training.rows import Row


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """What one token of a row weighs in its step, before the row's own weight."""

    likelihood: float
    divergence: float


class Streams(msgspec.Struct, frozen=True, kw_only=True):
    """(tokens,) each, over all trained tokens of a layout."""

    nodes: Tensor
    """int64: the place whose hidden state predicts the token."""
    targets: Tensor
    """int64: the token."""
    supervised: Tensor
    advantages: Tensor
    behaviour: Tensor
    divergence: Tensor


def token_weight(rows: Sequence[Row]) -> float:
    """What the rows' tokens weigh together; a token of a policy-gradient row weighs 1."""
    return sum(len(row.targets) * (row.weight if row.behaviour is None else 1.0) for row in rows)


def streams(rows: Sequence[Row], layout: Layout, shares: Shares) -> Streams:
    """The streams of all rows in a layout, in the layout's order."""
    nodes: list[int] = []
    targets: list[int] = []
    columns: list[tuple[float, float, float, float]] = []
    for index, places in zip(layout.rows, layout.nodes, strict=True):
        row = rows[index]
        nodes += places[row.targets - 1].tolist()
        targets += row.ids[row.targets].tolist()
        behaviour = [0.0] * len(row.targets) if row.behaviour is None else row.behaviour.tolist()
        supervised = row.weight * shares.likelihood
        advantage = row.advantage * shares.likelihood
        columns += [(supervised, advantage, mu, shares.divergence) for mu in behaviour]
    supervised_, advantages, behaviour_, divergence = torch.tensor(columns).T
    return Streams(
        nodes=torch.tensor(nodes),
        targets=torch.tensor(targets),
        supervised=supervised_,
        advantages=advantages,
        behaviour=behaviour_,
        divergence=divergence,
    )
