"""Replay rows: from a base's replay file, or from everyday prompts that come with the trainer."""

from importlib.resources import files
from pathlib import Path

import msgspec
import numpy as np

from adapter_training.rows import Row
from appliance.core.errors import RecordError
from appliance.core.records import Json
from appliance.engine.template import Template


class Conversation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a replay file."""

    messages: tuple[Json, ...]
    unfinished: bool = False
    """The last answer was cut short, so its end is no example of where to end."""


def general_prompts() -> list[Conversation]:
    """Everyday prompts without answers, for bases that bring no replay of their own."""
    source = files("adapter_training.replay") / "general.jsonl"
    return _parse(source.read_bytes(), source.name)


def conversations(base_path: Path) -> list[Conversation]:
    """The base's own replay file, else the general prompts.

    Raises:
        RecordError: the file is not one conversation a line.
    """
    path = base_path / "replay.jsonl"
    return _parse(path.read_bytes(), str(path)) if path.exists() else general_prompts()


def replay_rows(template: Template, talks: list[Conversation], *, max_tokens: int) -> list[Row]:
    """Rows with a loss on the assistant's tokens; a conversation is cut at `max_tokens`.

    Where there is no answer, every token is a target of weight 0: a prompt is not worth imitating,
    but what the base thinks of it is worth keeping (KL).
    """
    rows: list[Row] = []
    for talk in talks:
        spans = template.spans(talk.messages)
        ids = np.array(spans.ids[:max_tokens], dtype=np.int64)
        mask = spans.mask
        if talk.unfinished:
            mask[spans.answers[-1][1] - 1] = 0
        targets = np.flatnonzero(mask[:max_tokens])
        answered = len(targets) > 0
        if not answered:
            targets = np.arange(len(ids))
        rows.append(Row(ids=ids, targets=targets[targets > 0], weight=float(answered)))
    return rows


def _parse(text: bytes, where: str) -> list[Conversation]:
    try:
        lines = [line for line in text.splitlines() if line.strip()]
        return [msgspec.json.decode(line, type=Conversation) for line in lines]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{where} is not a replay file: {error}") from error
