"""One optimizer step: lay the rows out, add up their gradients, clip, move."""

import math
from collections.abc import Sequence

import torch

from adapter_training.collapse import Point
from adapter_training.layout import layouts
from adapter_training.lora import LoraModel
from adapter_training.passes import Tally, backward
from adapter_training.plan import Step, learning_rate
from adapter_training.rows import Row
from adapter_training.streams import Shares, streams, token_weight
from appliance.core.recipe import Recipe

_ACTIVATION_BYTES = 128 << 20
_MIN_TOKENS = 384
"""A pass over fewer tokens would not keep the processor busy, however large the model."""


class Trainer:
    """The adapter's weights and the optimizer that moves them."""

    def __init__(
        self,
        model: LoraModel,
        rows: Sequence[Row],
        replay: Sequence[Row],
        recipe: Recipe,
        *,
        total: int,
    ) -> None:
        self._model, self._rows, self._replay = model, rows, replay
        self._recipe, self._total = recipe, total
        self._max_tokens = max(_MIN_TOKENS, _ACTIVATION_BYTES // model.bytes_per_token)
        self.parameters = model.parameters()
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=recipe.learning_rate, weight_decay=0.0
        )

    def step(self, number: int, step: Step) -> Point:
        """Take step `number` of the plan, and say what was seen."""
        rate = learning_rate(number, self._total, self._recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        tally = self._gradients(number, step)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self._recipe.clip_norm)
        finite = math.isfinite(norm) and math.isfinite(tally.loss)
        if finite:
            self.optimizer.step()
        return self._point(number, step, tally, float(norm) if finite else 0.0, rate, finite)

    def _gradients(self, number: int, step: Step) -> Tally:
        tally = Tally()
        share = self._recipe.replay_share if step.replay else 0.0
        weight = token_weight([self._rows[i] for i in step.examples])
        self._pass(
            self._rows,
            step.examples,
            Shares(likelihood=(1 - share) / weight, divergence=0.0),
            tally,
            watched=True,
        )
        if step.replay:
            drawn = [self._replay[i] for i in step.replay]
            diverging = number % self._recipe.kl_every == 0
            targets = sum(len(row.targets) for row in drawn)
            shares = Shares(
                likelihood=share / max(token_weight(drawn), 1.0),
                divergence=self._recipe.kl_weight / targets if diverging else 0.0,
            )
            self._pass(self._replay, step.replay, shares, tally, watched=False)
        return tally

    def _pass(
        self,
        rows: Sequence[Row],
        chosen: Sequence[int],
        shares: Shares,
        tally: Tally,
        *,
        watched: bool,
    ) -> None:
        for layout in layouts(rows, chosen, max_tokens=self._max_tokens):
            batch = streams(rows, layout, shares)
            cap = self._recipe.importance_cap
            backward(self._model, layout, batch, tally, cap=cap, watched=watched)

    def _point(
        self, number: int, step: Step, tally: Tally, norm: float, rate: float, finite: bool
    ) -> Point:
        said: dict[int, int] = {}
        for index in step.examples:
            row = self._rows[index]
            for token in row.ids[row.targets].tolist():
                said[token] = said.get(token, 0) + 1
        num_said = sum(said.values())
        return Point(
            step=number,
            loss=tally.loss if finite else 0.0,
            supervised=tally.supervised if finite else 0.0,
            policy=tally.policy if finite else 0.0,
            divergence=tally.divergence if finite else 0.0,
            entropy=tally.entropy / tally.num_tokens if finite else 0.0,
            repeated=max(tally.predicted.values()) / tally.num_tokens,
            repeated_in_data=max(said.values()) / num_said,
            gradient_norm=norm,
            learning_rate=rate,
            num_tokens=step.num_tokens,
            skipped=not finite,
        )
