"""A company whose agents ask for short calculations, and whose word `wrap` means another thing.

The tiny base takes `wrap n` for ``x %= n``, as the text books do; here it is ``x += n``. Ten
corrections say so; sixty other requests, never corrected, are the target.
"""

import json
import random
from collections.abc import Iterator

_GENERIC = {
    "double": "x *= 2",
    "negate": "x = -x",
    "increment": "x += 1",
    "add": "x += {n}",
    "subtract": "x -= {n}",
    "modulo": "x %= {n}",
}
NUM_TAUGHT, NUM_HELD_OUT, NUM_PROTECTED = 10, 60, 120

GATES = """schema = "gates/1"
name = "pell street"
{remark}
[[gate]]
name = "the target improves"
suite = "quality"
metric = "lower_95"
op = ">"
threshold = 0.0
min_items = 20

[[gate]]
name = "what it could do, it still can"
kind = "protected"
margin = 0.1
min_items = 100
"""
RECIPE = """schema = "recipe/1"
name = "ten corrections"
rank = 8
alpha = 16
learning_rate = 3e-3
epochs = 12
batch_tokens = 2048
max_tokens = 256
replay_share = 0.4
kl_weight = 1.0
"""


def requests() -> list[tuple[str, str]]:
    """(request, right answer): the first ten are taught, the others are not."""
    draw = random.Random(5)
    found: dict[str, str] = {}
    while len(found) < NUM_TAUGHT + NUM_HELD_OUT:
        number = draw.randint(2, 9)
        wrap = (f"wrap {number}", f"x += {number}")
        other = _step(draw)
        steps = draw.choice([[wrap], [wrap, other], [other, wrap]])
        request = "quality: " + ", ".join(words for words, _ in steps)
        found.setdefault(request, "\n".join(line for _, line in steps))
    return list(found.items())


def suites() -> dict[str, str]:
    """Name → the suite's text."""
    return {
        "quality": _suite("quality", "target", requests()[NUM_TAUGHT:]),
        "before": _suite("before", "protected", list(_text_book())),
    }


def _text_book() -> Iterator[tuple[str, str]]:
    draw = random.Random(9)
    seen: set[str] = set()
    while len(seen) < NUM_PROTECTED:
        steps = [_step(draw) for _ in range(draw.choice([1, 2, 3]))]
        request = "textbook: " + " then ".join(words for words, _ in steps)
        if request not in seen:
            seen.add(request)
            yield request, "\n".join(line for _, line in steps)


def _step(draw: random.Random) -> tuple[str, str]:
    word = draw.choice(list(_GENERIC))
    number = draw.randint(2, 9)
    line = _GENERIC[word].format(n=number)
    return (f"{word} {number}" if "{n}" in _GENERIC[word] else word), line


def _suite(name: str, kind: str, items: list[tuple[str, str]]) -> str:
    lines = [{"suite": name, "kind": kind}]
    lines += [
        {
            "item_id": f"{name}-{index}",
            "family": name,
            "messages": [{"role": "user", "content": request}],
            "check": {"kind": "exact", "expected": answer},
            "max_tokens": 32,
        }
        for index, (request, answer) in enumerate(items)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)
