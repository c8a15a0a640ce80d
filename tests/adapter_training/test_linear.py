"""The product with frozen weights against PyTorch's own in float64, value and gradient."""

import pytest
import torch
from torch import nn

from adapter_training.linear import linear, quicken


@pytest.mark.parametrize(
    ("tokens", "inputs", "outputs"), [(1, 8, 3), (7, 512, 640), (400, 1024, 257)]
)
def test_value_and_gradient(tokens: int, inputs: int, outputs: int) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, inputs, generator=draw, requires_grad=True)
    weight = torch.randn(outputs, inputs, generator=draw)
    upstream = torch.randn(tokens, outputs, generator=draw)
    y = linear(x, weight)
    y.backward(upstream)
    assert torch.allclose(y.double(), x.double() @ weight.double().T, atol=1e-3)
    assert x.grad is not None
    assert torch.allclose(x.grad.double(), upstream.double() @ weight.double(), atol=1e-3)


@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_says_the_same_as_before(bias: bool) -> None:
    layer = nn.Linear(512, 640, bias=bias).requires_grad_(False)
    x = torch.randn(2, 5, 512)
    before = layer(x)
    quicken(layer)
    after = layer(x)
    assert after.shape == before.shape
    assert torch.allclose(after, before, atol=1e-5)


def test_an_upstream_gradient_may_be_a_view() -> None:
    x = torch.randn(6, 512, requires_grad=True)
    weight = torch.randn(640, 512)
    linear(x, weight).t().square().sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, 2 * (x.detach() @ weight.t()) @ weight, atol=0.1)
