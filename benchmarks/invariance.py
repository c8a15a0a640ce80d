"""How much an answer depends on what else is in the batch: float32 not at all, bfloat16 a little.

    python -m benchmarks.invariance [--json] [--base NAME ...] [--device cuda] [--threads N]

Requests are answered one at a time, and again all together with as many strangers' of other lengths
and other adapters, some of them admitted later. Printed is the share of tokens that are others than
alone, of answers that are, and the largest difference of a logprob before an answer's first other
token. In float32 all must be 0: run it where the processor or PyTorch is another than ours.
"""

import argparse
import json
import logging
import random
import sys
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.about import about
from benchmarks.engine import SHAPES
from benchmarks.engine_rivals import Answered, Ours, build

_ANSWERS, _NUM_NEW = 32, {"tiny": 64, "smollm2": 24, "0.5b": 24, "7b": 24}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    base: str
    dtype: str
    threads: int
    tokens: int
    other_tokens: float
    """Share of tokens that differ, of those up to an answer's first one and after."""
    other_answers: float
    largest_logprob_step: float


def main() -> None:
    """Print a table, and with --json one last line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.invariance", description=__doc__)
    parser.add_argument("--json", action="store_true", help="a last line of JSON")
    parser.add_argument("--base", choices=SHAPES, nargs="+", default=["tiny"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print("base     dtype     tokens  other tokens  other answers  logprob step", flush=True)
    cases = []
    device = torch.device(options.device)
    for base in options.base:
        with tempfile.TemporaryDirectory() as folder:
            built = build(Path(folder), SHAPES[base])
            for dtype in _DTYPES:
                case = _measure(base, dtype, Ours(built, device, _DTYPES[dtype]), options.threads)
                print(
                    f"{base:8} {dtype:8} {case.tokens:7} {case.other_tokens:12.2%} "
                    f"{case.other_answers:13.2%} {case.largest_logprob_step:13.2g}",
                    flush=True,
                )
                cases.append(case)
    if options.json:
        print(json.dumps({**about("torch"), "cases": [asdict(case) for case in cases]}))
    if any(case.other_tokens for case in cases if case.dtype == "float32"):
        sys.exit("in float32 an answer depended on what else was in the batch")


def _measure(base: str, dtype: str, ours: Ours, threads: int) -> Case:
    chance = random.Random(1)
    asked = [_request(base, chance) for _ in range(_ANSWERS)]
    strangers = [_request(base, chance) for _ in range(_ANSWERS)]
    count = _NUM_NEW[base]
    alone = [ours.answer([one], count)[0] for one in asked]
    together = ours.answer([*asked, *strangers], count)[:_ANSWERS]
    pairs = list(zip(alone, together, strict=True))
    return Case(
        base,
        dtype,
        threads,
        tokens=_ANSWERS * count,
        other_tokens=sum(_num_other(*pair) for pair in pairs) / (_ANSWERS * count),
        other_answers=sum(one.ids != other.ids for one, other in pairs) / _ANSWERS,
        largest_logprob_step=max(_step(*pair) for pair in pairs),
    )


def _request(base: str, chance: random.Random) -> tuple[int, list[int]]:
    prompt = [
        chance.randrange(3, SHAPES[base]["vocab_size"]) for _ in range(chance.choice((5, 90)))
    ]
    return chance.randrange(3), prompt


def _num_other(one: Answered, other: Answered) -> int:
    return sum(a != b for a, b in zip(one.ids, other.ids, strict=True))


def _step(one: Answered, other: Answered) -> float:
    largest = 0.0
    for a, b, p, q in zip(one.ids, other.ids, one.logprobs, other.logprobs, strict=True):
        if a != b:
            break
        largest = max(largest, abs(p - q))
    return largest


if __name__ == "__main__":
    main()
