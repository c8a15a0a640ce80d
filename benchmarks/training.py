"""Our supervised step against TRL's SFTTrainer: same base, same rows, same LoRA, tokens per second.

    python -m benchmarks.training --json

Tokens are counted as the rows have them, so a shared prefix that is computed once still counts
for every row that has it. Both take the same number of optimizer steps over the same rows.
"""

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adapter_training.lora import LoraModel
from adapter_training.plan import plan
from adapter_training.rows import Row
from adapter_training.steps import Trainer
from appliance.core.digests import Digest
from appliance.core.recipe import Recipe
from benchmarks.about import about

_BASE = Digest("sha256:" + "0" * 64)


def main() -> None:
    """Print a table, and with --json one last line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, help="a model's folder; default: a tiny random one")
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--shared", type=int, default=24, help="tokens that all prompts begin with")
    parser.add_argument("--own", type=int, default=16, help="tokens of each prompt's own")
    parser.add_argument("--answer", type=int, default=8, help="tokens that are trained on")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as work:
        folder = options.base or _random_base(Path(work) / "base")
        rows = _rows(folder, options)
        ours = _ours(folder, rows, options.epochs)
        theirs = _trl(folder, rows, options.epochs, Path(work) / "trl")
    result = {
        "rows": options.rows,
        "tokens_per_row": options.shared + options.own + options.answer,
        "threads": options.threads,
        **about("torch", "transformers", "peft", "trl"),
        "ours_tokens_per_s": round(ours, 1),
        "trl_tokens_per_s": round(theirs, 1),
        "ratio": round(ours / theirs, 2),
    }
    for name, value in result.items():
        print(f"{name:20} {value}")
    if options.json:
        print(json.dumps(result))


def _ours(folder: Path, rows: list[Row], epochs: int) -> float:
    recipe = Recipe(epochs=epochs, replay_share=0.0, kl_weight=0.0)
    model = LoraModel(folder, _BASE, recipe)
    steps = plan([len(row.ids) for row in rows], [], recipe)
    trainer = Trainer(model, rows, [], recipe, total=len(steps))
    begun = time.perf_counter()
    for number, step in enumerate(steps):
        trainer.step(number, step)
    return sum(step.num_tokens for step in steps) / (time.perf_counter() - begun)


def _trl(folder: Path, rows: list[Row], epochs: int, work: Path) -> float:
    from datasets import Dataset, disable_progress_bars
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    model = LoraModel(folder, _BASE, Recipe())
    model.peft.get_base_model().set_attn_implementation("sdpa")
    data = [
        {
            "input_ids": row.ids.tolist(),
            "completion_mask": [int(j in row.targets) for j in range(len(row.ids))],
        }
        for row in rows
    ]
    end = "<|im_end|>"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), eos_token=end, pad_token=end
    )
    per_step = Recipe().batch_tokens // len(rows[0].ids)
    disable_progress_bars()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = SFTConfig(
            output_dir=str(work),
            use_cpu=True,
            bf16=False,
            report_to=[],
            per_device_train_batch_size=min(per_step, 32),
            gradient_accumulation_steps=max(1, round(per_step / 32)),
            num_train_epochs=epochs,
            learning_rate=1e-3,
            gradient_checkpointing=False,
            completion_only_loss=True,
            eos_token=end,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer: Any = SFTTrainer(
            model=model.peft,
            args=arguments,
            train_dataset=Dataset.from_list(data),
            processing_class=tokenizer,
        )
        begun = time.perf_counter()
        trainer.train()
    return epochs * sum(len(row.ids) for row in rows) / (time.perf_counter() - begun)


def _rows(folder: Path, options: argparse.Namespace) -> list[Row]:
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    draw = np.random.default_rng(0)
    shared = draw.integers(0, vocabulary - 2, options.shared)
    length = options.shared + options.own + options.answer
    return [
        Row(
            ids=np.concatenate([shared, draw.integers(0, vocabulary - 2, length - len(shared))]),
            targets=np.arange(length - options.answer, length),
            weight=1.0,
        )
        for _ in range(options.rows)
    ]


def _random_base(folder: Path) -> Path:
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=512,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(511)}, "w0"))
    tokenizer.add_special_tokens(["<|im_end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


if __name__ == "__main__":
    main()
