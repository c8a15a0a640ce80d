"""What is trained on, put together again from the raw files by code that shares nothing with the
importer.

It knows three things only: the files' own formats, how a tool call is written
(docs/records.md), and the tokenizer. Trained tokens must decode to exactly what the assistant
said, answer by answer; everything else that was said must stand in the prompt, in order. An answer
that the dataset left out by name (a redacted one, say) may be missing, no other.

`python -m tests.collectors.reassembly --home HOME --dataset DIGEST FILE…` checks a home's dataset.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

END_OF_TURN = "<|im_end|>"
REDACTED = "[redacted:"

Message = dict[str, Any]


def conversations(file: Path) -> list[list[Message]]:
    """The conversations of a tau-bench or a SWE-agent file."""
    whole = json.loads(file.read_text())
    return [whole["history"]] if isinstance(whole, dict) else [r["traj"] for r in whole]


def as_written(message: Message) -> str:
    """An assistant's message as the template writes it."""
    text = message["content"] or ""
    for call in message.get("tool_calls") or []:
        name = json.dumps(call["function"]["name"], ensure_ascii=False)
        arguments = json.dumps(json.loads(call["function"]["arguments"]), ensure_ascii=False)
        text += "\n" if text else ""
        text += f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>'
    return text


def unassembled(home: Path, dataset: str, files: Iterable[Path]) -> tuple[int, list[str]]:
    """How many examples the dataset has, and the trajectories of those that match no raw record."""
    sealed = json.loads(_object(home, dataset))
    base = home / "bases" / sealed["base"].removeprefix("sha256:")
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    raw = [conversation for file in files for conversation in conversations(file)]
    wrong = []
    for example in sealed["examples"]:
        name = example["trajectory_id"]
        missing = sum(e["subject"].startswith(f"{name}#") for e in sealed["exclusions"])
        whole, trained = _texts(home, tokenizer, example)
        found = next((r for r in raw if _is(r, whole, trained, missing)), None)
        if found is None:
            wrong.append(name)
        else:
            # Each record explains one example.
            raw.remove(found)
    return len(sealed["examples"]), wrong


def _is(conversation: Sequence[Message], whole: str, trained: Sequence[str], missing: int) -> bool:
    said = [as_written(message) for message in conversation if _is_answer(message)]
    if len(said) != len(trained) + missing or not _in_order(trained, said):
        return False
    # What came after the last answer is no prompt of anything.
    last = max(i for i, message in enumerate(conversation) if _is_answer(message))
    others = [m["content"] for m in conversation[:last] if m["role"] != "assistant"]
    return REDACTED in whole or _stand_in(whole, [text for text in others if text])


def _is_answer(message: Message) -> bool:
    # Somebody else's demonstration is no answer, and neither is nothing at all.
    own = message["role"] == "assistant" and not message.get("is_demo")
    return own and bool(as_written(message))


def _in_order(some: Iterable[str], all_: Iterable[str]) -> bool:
    left = iter(all_)
    return all(text in left for text in some)


def _stand_in(whole: str, texts: Iterable[Any]) -> bool:
    at = 0
    for text in texts:
        parts = [text] if isinstance(text, str) else [part["text"] for part in text]
        for part in parts:
            at = whole.find(part.strip(), at)
            if at < 0:
                return False
            at += len(part.strip())
    return True


def _texts(home: Path, tokenizer: Tokenizer, example: dict[str, Any]) -> tuple[str, list[str]]:
    """The whole row as text, and its trained runs, each without its end-of-turn token."""
    ids = np.frombuffer(_object(home, example["ids"]["digest_of_bytes"]), "<i4")
    mask = np.frombuffer(_object(home, example["mask"]["digest_of_bytes"]), "u1")
    assert len(ids) == len(mask)
    return _decode(tokenizer, ids), list(_runs(tokenizer, ids, mask))


def _runs(tokenizer: Tokenizer, ids: Any, mask: Any) -> Iterator[str]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]])))
    for first, end in edges.reshape(-1, 2):
        assert ids[end - 1] == tokenizer.token_to_id(END_OF_TURN)
        yield _decode(tokenizer, ids[first : end - 1])


def _decode(tokenizer: Tokenizer, ids: Any) -> str:
    return str(tokenizer.decode(ids.tolist(), skip_special_tokens=False))


def _object(home: Path, digest: str) -> bytes:
    digits = digest.removeprefix("sha256:")
    return (home / "objects" / digits[:2] / digits[2:]).read_bytes()


def main() -> int:
    """One JSON line for each dataset; 1 where an example cannot be put together again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--dataset", action="append", required=True)
    parser.add_argument("files", type=Path, nargs="+")
    options = parser.parse_args()
    clean = True
    for dataset in options.dataset:
        num, wrong = unassembled(options.home, dataset, options.files)
        clean = clean and not wrong
        print(json.dumps({"dataset": dataset, "examples": num, "not_reassembled": wrong}))
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
