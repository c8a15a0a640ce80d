"""Rows too long to keep every activation of: the same gradients, to the last bit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from adapter_training import lora
from adapter_training.layout import layouts
from adapter_training.lora import LoraModel
from adapter_training.passes import Tally, backward
from adapter_training.rows import Row
from adapter_training.streams import Shares, streams
from appliance.core.digests import Digest
from appliance.core.recipe import Recipe

_ROWS = [
    Row(ids=np.arange(n) % 97, targets=np.arange(n // 2, n), weight=1.0) for n in (90, 120, 200)
]


def gradients(base_folder: Path) -> tuple[dict[str, torch.Tensor], int]:
    """The gradients of one pass, and how many blocks were computed in it."""
    model = LoraModel(base_folder, Digest("sha256:" + "0" * 64), Recipe(rank=4))
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    for name, module in model.peft.named_modules():
        if name.endswith(".mlp"):
            module.register_forward_pre_hook(count)
    draws = torch.Generator().manual_seed(1)
    for parameter in model.parameters().values():
        parameter.data.normal_(std=0.1, generator=draws)
    for layout in layouts(_ROWS, range(len(_ROWS)), max_tokens=300):
        batch = streams(_ROWS, layout, Shares(likelihood=0.01, divergence=0.02))
        backward(model, layout, batch, Tally(), cap=2.0, watched=True)
    named = model.parameters().items()
    return {name: p.grad for name, p in named if p.grad is not None}, calls


def test_what_is_computed_again_is_the_same(
    base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, calls = gradients(base_folder)
    monkeypatch.setattr(lora, "_KEPT_BYTES", 0)
    again, more_calls = gradients(base_folder)
    assert more_calls > calls
    assert kept.keys() == again.keys()
    assert all(torch.equal(kept[name], again[name]) for name in kept)
