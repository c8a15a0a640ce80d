"""A whole step of ours against a whole step of TRL's: same base, same adapter, same batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from adapter_training.lora import LoraModel
from adapter_training.plan import Step
from adapter_training.rows import Row
from adapter_training.steps import Trainer
from appliance.core.digests import Digest
from appliance.core.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL's own code

_BASE = Digest("sha256:" + "a" * 64)
_PROMPT, _ANSWER = 5, 6
_LENGTHS = (6, 4, 6, 2)
_CAP = 1.3


class Batch:
    """Four rows: prompts of one length, answers of different lengths, advantages of both signs."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(3)
        self.prompts = torch.randint(250, (4, _PROMPT), generator=draw)
        self.answers = torch.randint(250, (4, _ANSWER), generator=draw)
        self.mask = torch.tensor([[int(j < n) for j in range(_ANSWER)] for n in _LENGTHS])
        self.behaviour = -torch.rand(4, _ANSWER, generator=draw) * 9
        self.advantages = torch.tensor([0.7, -0.2, 0.4, -0.1])

    def rows(self, *, policy: bool) -> list[Row]:
        return [
            Row(
                ids=torch.cat([self.prompts[i], self.answers[i, :n]]).numpy(),
                targets=np.arange(_PROMPT, _PROMPT + n),
                weight=0.0 if policy else 1.0,
                advantage=float(self.advantages[i]) if policy else 0.0,
                behaviour=self.behaviour[i, :n].numpy() if policy else None,
            )
            for i, n in enumerate(_LENGTHS)
        ]


def model_with_adapter(folder: Path) -> LoraModel:
    """B is zero at first, and then A has no gradient; so B is drawn here."""
    model = LoraModel(folder, _BASE, Recipe())
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.parameters().items():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model


def trls(folder: Path) -> LoraModel:
    """The same model with the attention that TRL's batches are made for."""
    model = model_with_adapter(folder)
    model.peft.get_base_model().set_attn_implementation("sdpa")
    return model


def ours(model: LoraModel, rows: list[Row]) -> tuple[float, dict[str, Tensor]]:
    recipe = Recipe(importance_cap=_CAP, clip_norm=1e9, replay_share=0.0)
    trainer = Trainer(model, rows, [], recipe, total=1)
    step = Step(examples=tuple(range(len(rows))), replay=(), num_tokens=0)
    point = trainer.step(0, step)
    return point.loss, gradients(model)


def gradients(model: LoraModel) -> dict[str, Tensor]:
    found = {name: p.grad for name, p in model.parameters().items()}
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


def assert_same(
    mine: tuple[float, dict[str, Tensor]], theirs: tuple[float, dict[str, Tensor]]
) -> None:
    assert mine[0] == pytest.approx(theirs[0], rel=1e-5)
    assert mine[1].keys() == theirs[1].keys()
    for name, gradient in mine[1].items():
        assert float((gradient - theirs[1][name]).norm()) < 1e-5 * float(theirs[1][name].norm())


@pytest.fixture
def tokenizer(base_folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_file=str(base_folder / "tokenizer.json"),
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
    )


def test_supervised_is_trl_sft(base_folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    batch = Batch()
    mine = ours(model_with_adapter(base_folder), batch.rows(policy=False))
    model = trls(base_folder)
    data = [
        {
            "input_ids": row.ids.tolist(),
            "completion_mask": [int(j in row.targets) for j in range(len(row.ids))],
        }
        for row in batch.rows(policy=False)
    ]
    arguments = SFTConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[], completion_only_loss=True,
        gradient_checkpointing=False, eos_token="<|im_end|>",
    )  # fmt: skip
    trainer = SFTTrainer(
        model=model.peft,
        args=arguments,
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
    )
    inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    assert_same(mine, (float(loss), gradients(model)))


def test_outcome_pg_is_trl_cispo(base_folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    batch = Batch()
    mine = ours(model_with_adapter(base_folder), batch.rows(policy=True))
    model = trls(base_folder)
    arguments = GRPOConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[], loss_type="cispo",
        epsilon_high=_CAP, per_device_train_batch_size=4, num_generations=2, beta=0.0,
        gradient_checkpointing=False, steps_per_generation=1,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=model.peft,
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "x"}] * 4),
        processing_class=tokenizer,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
    )
    trainer.current_gradient_accumulation_steps = 1
    inputs = {
        "prompt_ids": batch.prompts,
        "prompt_mask": torch.ones_like(batch.prompts),
        "completion_ids": batch.answers,
        "completion_mask": batch.mask,
        "advantages": batch.advantages,
        # What TRL calls old is, for logged data, the policy that wrote the answer.
        "old_per_token_logps": batch.behaviour,
        "num_items_in_batch": batch.mask.sum(),
    }
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    assert_same(mine, (float(loss), gradients(model)))
