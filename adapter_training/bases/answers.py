"""A fetched base's own greedy answers to everyday prompts: its replay."""

import tempfile
from pathlib import Path
from typing import Any

import msgspec

from adapter_training.replay.rows import Conversation, general_prompts
from appliance.core.home import Home
from appliance.engine.bases import REPLAY, Registry
from appliance.engine.template import Template

_BATCH = 32
_MAX_TOKENS = 40


def write_replay(folder: Path) -> None:
    """Write ``replay.jsonl`` into a model's folder; long answers are cut, and marked as such."""
    prompts = [list(talk.messages) for talk in general_prompts()]
    with tempfile.TemporaryDirectory() as work:
        # Registered for a moment, because the registry decides which chat template it will have.
        home = Home(Path(work))
        home.create()
        base = Registry(home).add_directory(folder, "model", origin="replay")
        template = Template.load(base.path)
        answers = _greedy(base.path, template, [template.encode(p) for p in prompts])
    talks = [
        Conversation(messages=(*prompt, {"role": "assistant", "content": text}), unfinished=cut)
        for prompt, (text, cut) in zip(prompts, answers, strict=True)
    ]
    (folder / REPLAY).write_bytes(b"".join(msgspec.json.encode(talk) + b"\n" for talk in talks))


def _greedy(path: Path, template: Template, prompts: list[list[int]]) -> list[tuple[str, bool]]:
    """The greedy answer to each prompt, and whether it was cut short."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, local_files_only=True, use_safetensors=True
    ).eval()
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers = [("", True)] * len(prompts)
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        width = max(len(prompts[i]) for i in batch)
        ids = torch.zeros(len(batch), width, dtype=torch.int64)
        real = torch.zeros_like(ids)
        for row, index in enumerate(batch):
            ids[row, width - len(prompts[index]) :] = torch.tensor(prompts[index])
            real[row, width - len(prompts[index]) :] = 1
        out = model.generate(
            ids,
            attention_mask=real,
            do_sample=False,
            max_new_tokens=_MAX_TOKENS,
            eos_token_id=template.stop_ids,
            pad_token_id=template.stop_ids[0],
        )
        for row, index in enumerate(batch):
            answers[index] = _read(template, out[row, width:].tolist())
    return answers


def _read(template: Template, ids: list[int]) -> tuple[str, bool]:
    ends = [at for at, token in enumerate(ids) if token in template.stop_ids]
    return template.decode(ids[: ends[0]] if ends else ids), not ends
