"""Each loss against TRL on the same batch, or a float64 reference where TRL has none."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from adapter_training.losses import kl, outcome_pg, supervised

_TOLERANCE = 1e-5
_TOKENS, _VOCABULARY, _HIDDEN = 40, 97, 24


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def loss_and_gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, Tensor]:
    point = at.clone().requires_grad_()
    value = loss(point)
    value.backward()  # type: ignore[no-untyped-call]
    assert point.grad is not None
    return value.detach(), point.grad


@pytest.fixture
def batch() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(5)
    return {
        "logits": torch.randn(_TOKENS, _VOCABULARY, generator=draw) * 3,
        "base_logits": torch.randn(_TOKENS, _VOCABULARY, generator=draw) * 3,
        "targets": torch.randint(_VOCABULARY, (_TOKENS,), generator=draw),
        "behaviour": -torch.rand(_TOKENS, generator=draw) * 6,
        "advantages": torch.randn(_TOKENS, generator=draw),
        "weights": torch.rand(_TOKENS, generator=draw),
    }


def chosen(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]


def test_supervised_against_float64(batch: dict[str, Tensor]) -> None:
    targets, weights = batch["targets"], batch["weights"]

    def reference(logits: Tensor) -> Tensor:
        each = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        return (each * weights.double()).sum()

    ours = loss_and_gradient(lambda x: supervised(chosen(x, targets), weights), batch["logits"])
    theirs = loss_and_gradient(reference, batch["logits"].double())
    assert max(map(relative, ours, theirs)) < _TOLERANCE


def test_outcome_pg_against_float64(batch: dict[str, Tensor]) -> None:
    targets, mu, gain = batch["targets"], batch["behaviour"], batch["advantages"]
    logits = batch["logits"].double()
    pi = torch.exp(chosen(logits, targets)).numpy()
    weight = torch.from_numpy(np.minimum(pi / np.exp(mu.double().numpy()), 2.0))

    def reference(x: Tensor) -> Tensor:
        return -(weight * gain.double() * chosen(x, targets)).sum()

    def loss(x: Tensor) -> Tensor:
        return outcome_pg(chosen(x, targets), mu, gain, 2.0)

    ours = loss_and_gradient(loss, batch["logits"])
    theirs = loss_and_gradient(reference, logits)
    assert max(map(relative, ours, theirs)) < _TOLERANCE


def test_the_importance_weight_is_capped_even_where_its_exponential_would_overflow() -> None:
    logprobs, behaviour = torch.tensor([-0.5]), torch.tensor([-200.0])
    assert outcome_pg(logprobs, behaviour, torch.ones(1), 2.0).item() == pytest.approx(1.0)


def test_kl_against_float64(batch: dict[str, Tensor]) -> None:
    weights, base = batch["weights"].double(), batch["base_logits"].double()

    def reference(x: Tensor) -> Tensor:
        theirs, ours = base.log_softmax(-1), x.log_softmax(-1)
        each = torch.nn.functional.kl_div(theirs, ours, reduction="none", log_target=True).sum(-1)
        return (each * weights).sum()

    def loss(x: Tensor) -> Tensor:
        return kl(x, batch["base_logits"], batch["weights"])

    ours = loss_and_gradient(loss, batch["logits"])
    theirs = loss_and_gradient(reference, batch["logits"].double())
    assert max(map(relative, ours, theirs)) < _TOLERANCE


def test_kl_against_trl() -> None:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    draw = torch.Generator().manual_seed(5)
    hidden, base_hidden = torch.randn(2, _TOKENS, _HIDDEN, generator=draw)
    head = torch.randn(_VOCABULARY, _HIDDEN, generator=draw)

    def loss(x: Tensor) -> Tensor:
        return kl(x @ head.T, base_hidden @ head.T, torch.full((_TOKENS,), 1 / _TOKENS))

    def reference(x: Tensor) -> Tensor:
        reverse = ChunkedDivergenceFunction.apply(x, head, None, base_hidden, head, None, 1.0)
        mean: Tensor = reverse[0].mean()
        return mean

    ours, theirs = loss_and_gradient(loss, hidden), loss_and_gradient(reference, hidden)
    assert max(map(relative, ours, theirs)) < _TOLERANCE
