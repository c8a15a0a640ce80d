"""What is trained on, checked from the raw files by code that shares nothing with the importer.

It knows three things only: the files' own formats, how a tool call is written
(docs/records.md), and the tokenizer. Trained tokens must decode to exactly what the assistant
said, answer by answer.
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.settings import Settings
from appliance.engine.bases import Base
from collectors.curation.run import Order, curate
from collectors.importing.importer import Source
from collectors.importing.run import import_files

END_OF_TURN = 2


def said_in(file: Path) -> list[tuple[str, ...]]:
    """Each trajectory of a raw file as the texts of its assistant's answers."""
    whole = json.loads(file.read_text())
    conversations = [whole["history"]] if isinstance(whole, dict) else [r["traj"] for r in whole]
    return [
        tuple(as_written(message) for message in messages if message["role"] == "assistant")
        for messages in conversations
    ]


def as_written(message: dict[str, Any]) -> str:
    text = message["content"] or ""
    for call in message.get("tool_calls") or []:
        name = json.dumps(call["function"]["name"], ensure_ascii=False)
        arguments = json.dumps(json.loads(call["function"]["arguments"]), ensure_ascii=False)
        text += "\n" if text else ""
        text += f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>'
    return text


def trained_texts(
    store: ObjectStore, tokenizer: Tokenizer, example: dict[str, Any]
) -> tuple[str, ...]:
    """The masked runs of an example, each without its end-of-turn token."""
    ids = np.frombuffer(store.get(example["ids"]["digest_of_bytes"]), "<i4")
    mask = np.frombuffer(store.get(example["mask"]["digest_of_bytes"]), "u1")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]])))
    texts = []
    for first, end in edges.reshape(-1, 2):
        assert ids[end - 1] == END_OF_TURN
        texts.append(tokenizer.decode(ids[first : end - 1].tolist(), skip_special_tokens=False))
    return tuple(texts)


def test_trained_tokens_are_exactly_what_the_assistant_said(
    home: Home, base: Base, data: Callable[[str], Path], tmp_path: Path
) -> None:
    files = [data("tau_bench_airline_gpt4o.json"), *sorted(data("swe_agent").glob("*.traj"))]
    # A person vouches for all of it, so that every trajectory is looked at, not the 49 alone.
    import_files(home, Settings(), files, Source(label="internal", outcome="ok"))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "everything"\nmax_tokens = 200000\n')
    made = curate(home, Settings(), Order(recipe=recipe, base="test-base"))
    assert made.excluded == {}
    store = ObjectStore(home.objects)
    tokenizer = Tokenizer.from_file(str(base.path / "tokenizer.json"))
    dataset = json.loads(store.get(made.dataset))
    trained = Counter(trained_texts(store, tokenizer, one) for one in dataset["examples"])
    assert trained == Counter(texts for file in files for texts in said_in(file))
