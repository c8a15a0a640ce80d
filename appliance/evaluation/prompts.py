"""What a dataset's prompts said: the texts of their turns, decoded from the ids that train.

The ids are the truth: whatever a record beside them claims, these are what the adapter has seen.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from appliance.core.digests import Digest, digest_bytes
from appliance.core.objects import ObjectStore
from appliance.core.records import ArrayRef, Dataset, Item, Record
from appliance.engine.template import Template
from appliance.evaluation.likelihood import encode_item
from appliance.evaluation.suites import Suite, is_likelihood

# The header that chat templates write before a turn, once special tokens are left out.
_HEADER = re.compile(r"\s*(system|developer|user|assistant|tool|ipython)\s*\n+")


class Prompt(Record, frozen=True, kw_only=True):
    """One training example's prompt and answer, as text."""

    said: tuple[str, ...]
    """What others than the assistant wrote, turn by turn; a template's own text may be in it."""
    answer: str
    succeeded: bool
    """It is a success or a correction: the adapter was drawn towards this answer."""


def dataset_prompts(dataset: Dataset, template: Template, store: ObjectStore) -> list[Prompt]:
    """Every example's prompt, in the dataset's order."""
    return [
        _prompt(
            _array(example.ids, store),
            _array(example.mask, store),
            template,
            succeeded=example.kind != "failure",
        )
        for example in dataset.examples
    ]


def item_texts(messages: Iterable[Any]) -> list[str]:
    """The plain texts in an item's messages, the assistant's left out."""
    return [
        message["content"].strip()
        for message in messages
        if message.get("role") != "assistant" and isinstance(message.get("content"), str)
    ]


def overlapping(
    suite: Suite, dataset: Dataset, seen: Sequence[Prompt], template: Template, store: ObjectStore
) -> set[str]:
    """Ids of the suite's items that the dataset holds.

    An item is there when its last message was said in some prompt, word for word; one that is
    judged by likelihood, when its whole row of ids is an example's.
    """
    said = {text.strip() for prompt in seen for text in prompt.said}
    rows = {example.ids.digest_of_bytes for example in dataset.examples}
    return {
        item.item_id
        for item in suite.items
        if (
            _row_digest(item, template, store) in rows if is_likelihood(item) else _asks(item, said)
        )
    }


def _asks(item: Item, said: set[str]) -> bool:
    texts = item_texts(item.messages)
    return bool(texts) and texts[-1] in said


def _row_digest(item: Item, template: Template, store: ObjectStore) -> Digest | None:
    row = encode_item(item, template, store)
    return digest_bytes(np.asarray(row[0], "<i4").tobytes()) if row else None


def _prompt(ids: list[int], mask: list[int], template: Template, *, succeeded: bool) -> Prompt:
    answer = [token for token, trained in zip(ids, mask, strict=True) if trained]
    # In a conversation others speak between the answers too; an answer ends what was said before.
    end = template.stop_ids[0]
    others = [end if trained else token for token, trained in zip(ids, mask, strict=True)]
    turns = [_turn(template.decode(part)) for part in _split(others, template.stop_ids)]
    said = tuple(text for role, text in turns if role != "assistant" and text)
    return Prompt(said=said, answer=template.decode(answer).strip(), succeeded=succeeded)


def _turn(text: str) -> tuple[str, str]:
    """(role, text) of what stands between two ends of turn."""
    header = _HEADER.match(text + "\n")
    return (header[1], text[header.end() :].strip()) if header else ("", text.strip())


def _split(ids: Sequence[int], ends: Iterable[int]) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    stops = set(ends)
    for token in ids:
        if token in stops:
            parts.append([])
        else:
            parts[-1].append(token)
    return [part for part in parts if part]


def _array(ref: ArrayRef, store: ObjectStore) -> list[int]:
    dtype = np.dtype(ref.dtype).newbyteorder("<")
    return [int(number) for number in np.frombuffer(store.get(ref.digest_of_bytes), dtype)]
