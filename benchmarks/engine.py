"""The embedded engine against transformers' generate with PEFT, and against vLLM.

    python -m benchmarks.engine [--json] [--base NAME ...] [--threads N] [--pairs N]
    python -m benchmarks.engine --device cuda --base smollm2 0.5b 7b --json

Weights are random, of the shape that is named; adapters are random, of rank 8 on every linear
layer. All decode greedily, in float32 (on a GPU in bfloat16, ours with CUDA graphs), the same
prompts for the same number of tokens; ours also reports logprobs. Ours and transformers run in this
process; vLLM is its own server, asked on a Unix socket with one request per adapter. It is found
through $ESPALIER_VLLM_PYTHON (default: where `make vllm` puts it); without one its column is empty.

Two take turns, five times; `vs_peft` and `vs_vllm` are medians of the five pairs' ratios, above 1
where ours is faster, and `tok_s` is the median of ours. With three adapters transformers runs a
batch for each or lets PEFT mix them: whichever is faster here.
"""

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.about import about
from benchmarks.engine_rivals import Ours, Peft, VllmServer, Work, build, vllm_server

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {
        "vocab_size": 409,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "max_position_embeddings": 1024,
    },
    "smollm2": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
    },
    "0.5b": {
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
    },
    "7b": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
    },
}
NUM_PROMPT, NUM_NEW = 32, {"tiny": 96, "smollm2": 24, "0.5b": 24, "7b": 24}
_VLLM = Path(__file__).parents[1] / ".ground" / "vllm" / "bin" / "python"

Rival = Callable[[Work], None]


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    base: str
    batch: int
    adapters: int
    tok_s: float
    vs_peft: float
    vs_vllm: float | None

    def line(self) -> str:
        """The row as text."""
        vllm = "     -" if self.vs_vllm is None else f"{self.vs_vllm:6.2f}"
        return (
            f"{self.base:8} {self.batch:5} {self.adapters:8} {self.tok_s:9.1f} "
            f"{self.vs_peft:8.2f}  {vllm}"
        )


def main() -> None:
    """Measure, print the table, and with --json one last line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--json", action="store_true", help="a last line of JSON")
    parser.add_argument("--base", choices=SHAPES, nargs="+", default=["tiny", "smollm2"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of each of the three")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    device = torch.device(options.device)
    facts = {
        **about("torch", "transformers", "peft"),
        "threads": options.threads,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    }
    print(", ".join(f"{name} {value}" for name, value in facts.items()), file=sys.stderr)
    print("base     batch adapters     tok/s  vs peft  vs vllm", flush=True)
    cases = []
    for base in options.base:
        for case in _measure(base, options.pairs, options.threads, device):
            print(case.line(), flush=True)
            cases.append(case)
    if options.json:
        print(json.dumps({**facts, "cases": [asdict(case) for case in cases]}))


def _measure(base: str, pairs: int, threads: int, device: torch.device) -> Iterator[Case]:
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        built = build(Path(folder), SHAPES[base], device, dtype)
        python = Path(os.environ.get("ESPALIER_VLLM_PYTHON", _VLLM))
        vllm: VllmServer | None = None
        if python.exists():
            vllm = stack.enter_context(vllm_server(python, built, dtype, threads=threads))
        ours, peft = Ours(built, device, dtype), Peft(built, device, dtype)
        fresh = _Fresh(base)
        for batch in (1, 32):
            for adapters in (1, 3):
                rival = _faster([peft.grouped, peft.mixed], fresh, batch, adapters)
                tok_s, vs_peft = _pairs(ours.run, rival, fresh, batch, adapters, pairs)
                vs_vllm = None
                if vllm is not None:
                    _, vs_vllm = _pairs(ours.run, vllm.run, fresh, batch, adapters, pairs)
                yield Case(base, batch, adapters, tok_s, vs_peft, vs_vllm)


class _Fresh:
    """Prompts that nobody has seen: what is measured is decoding, not caches of prompts."""

    def __init__(self, base: str) -> None:
        self._high = SHAPES[base]["vocab_size"]
        self._num_new = NUM_NEW[base]
        self._generator = torch.Generator().manual_seed(1)

    def work(self, batch: int, adapters: int) -> Work:
        """At batch 1 each adapter answers one request, one after another."""
        count = batch if batch > 1 else adapters
        size = (count, NUM_PROMPT)
        prompts = torch.randint(3, self._high, size, generator=self._generator).tolist()
        return Work(prompts, [index % adapters for index in range(count)], batch, self._num_new)


def _faster(rivals: list[Rival], fresh: _Fresh, batch: int, adapters: int) -> Rival:
    """The best way to do it, tried once; the one way, where all rows have one adapter."""
    if adapters == 1 or batch == 1:
        return rivals[0]
    seconds = {rival: _seconds(rival, fresh.work(batch, adapters)) for rival in rivals}
    return min(rivals, key=seconds.__getitem__)


def _pairs(
    ours: Rival, theirs: Rival, fresh: _Fresh, batch: int, adapters: int, count: int
) -> tuple[float, float]:
    """Medians over pairs: our tokens a second, and their time over ours."""
    for rival in (ours, theirs):
        rival(fresh.work(batch, adapters))
    speeds, ratios = [], []
    for _ in range(count):
        work = fresh.work(batch, adapters)
        mine, other = _seconds(ours, work), _seconds(theirs, work)
        speeds.append(work.num_tokens / mine)
        ratios.append(other / mine)
    return round(statistics.median(speeds), 1), round(statistics.median(ratios), 2)


def _seconds(rival: Rival, work: Work) -> float:
    begun = time.perf_counter()
    rival(work)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
