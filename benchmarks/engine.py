"""The embedded engine against transformers' generate with PEFT: the same prompts, in one process.

``python -m benchmarks.engine [--json] [--shape tiny|smollm2|both] [--threads N]``

Weights are random, of the shape that is named; adapters are random, of rank 8 on every linear
layer. Both sides decode greedily and for the same number of tokens; ours also reports logprobs.
The two take turns, and each one's best run counts: on a busy machine that is the fairest number.
`cpu ratio` compares processor time instead of wall time.
With three adapters, transformers runs one batch per adapter (its mixed batches are slower here;
both are measured and the better one counts).
"""

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.about import about

RANK = 8
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
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
}
NUM_PROMPT, NUM_NEW = 32, {"tiny": 96, "smollm2": 24}


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    shape: str
    batch: int
    adapters: int
    ours: float
    theirs: float
    cpu_ratio: float
    """The same comparison in processor time, which other work on the machine does not stretch."""

    def line(self) -> str:
        """The row as text."""
        ratio = self.ours / self.theirs
        return (
            f"{self.shape:8} {self.batch:5} {self.adapters:8} {self.ours:9.1f} "
            f"{self.theirs:12.1f} {ratio:6.2f} {self.cpu_ratio:9.2f}"
        )


def main() -> None:
    """Measure, print the table, and with --json one last line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--json", action="store_true", help="a last line of JSON")
    parser.add_argument("--shape", choices=[*SHAPES, "both"], default="both")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    facts = _facts(options.threads)
    print(", ".join(f"{name} {value}" for name, value in facts.items()), file=sys.stderr)
    print("shape    batch adapters  ours t/s transformers  ratio cpu ratio", flush=True)
    cases = []
    for shape in SHAPES if options.shape == "both" else [options.shape]:
        for case in _measure(shape, options.repeats):
            print(case.line(), flush=True)
            cases.append(case)
    slowest = min(case.ours / case.theirs for case in cases)
    load = os.getloadavg()[0]
    print(f"smallest ratio: {slowest:.2f}; load average {load:.2f}")
    if options.json:
        rows = [vars(case) for case in cases]
        print(json.dumps({**facts, "cases": rows, "smallest_ratio": slowest}))


def _facts(threads: int) -> dict[str, Any]:
    return {**about("torch", "transformers", "peft"), "threads": threads, "dtype": "float32"}


def _measure(shape: str, repeats: int) -> list[Case]:
    with tempfile.TemporaryDirectory() as folder:
        model, digests, engine = _build(Path(folder), shape)
        cases = []
        for batch in (1, 32):
            for adapters in (1, 3):
                work = _work(shape, batch, adapters)
                ours = _Ours(engine, digests, NUM_NEW[shape])
                theirs = _Theirs(model, NUM_NEW[shape])
                rivals: list[Callable[[Any], None]] = [theirs.grouped]
                if adapters > 1 and batch > 1:
                    rivals.append(theirs.mixed)
                wall, cpu = _best([ours.run, *rivals], work, repeats)
                tokens = len(work) * NUM_NEW[shape]
                cases.append(
                    Case(
                        shape,
                        batch,
                        adapters,
                        ours=tokens / wall[0],
                        theirs=tokens / min(wall[1:]),
                        cpu_ratio=min(cpu[1:]) / cpu[0],
                    )
                )
    return cases


def _work(shape: str, batch: int, adapters: int) -> list[tuple[int, list[int], int]]:
    """(adapter, prompt, batch): at batch 1 each adapter answers one request, one after another."""
    generator = torch.Generator().manual_seed(batch * 10 + adapters)
    count = batch if batch > 1 else adapters
    high = SHAPES[shape]["vocab_size"]
    prompts = torch.randint(3, high, (count, NUM_PROMPT), generator=generator).tolist()
    return [(index % adapters, prompt, batch) for index, prompt in enumerate(prompts)]


def _best(
    rivals: list[Callable[[Any], None]], work: Any, repeats: int
) -> tuple[list[float], list[float]]:
    """Each rival's best run, in seconds of wall time and of processor time."""
    wall: list[list[float]] = [[] for _ in rivals]
    cpu: list[list[float]] = [[] for _ in rivals]
    for rival in rivals:
        rival(work)
    for _ in range(repeats):
        for index, rival in enumerate(rivals):
            begun, begun_cpu = time.perf_counter(), time.process_time()
            rival(work)
            wall[index].append(time.perf_counter() - begun)
            cpu[index].append(time.process_time() - begun_cpu)
    return [min(series) for series in wall], [min(series) for series in cpu]


def _build(folder: Path, shape: str) -> tuple[Any, list[str], Any]:
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from appliance.core.adapters import content_digest
    from appliance.core.digests import digest_json
    from appliance.inference.adapter_files import read_adapter
    from appliance.inference.architecture import read_architecture
    from appliance.inference.engine import Engine
    from appliance.inference.model import Model
    from appliance.inference.weights import load_weights

    torch.manual_seed(0)
    config = LlamaConfig(**SHAPES[shape], tie_word_embeddings=True, eos_token_id=None)
    base = LlamaForCausalLM(config).eval()
    base.save_pretrained(folder / "base")
    digest = digest_json(shape)
    lora = LoraConfig(r=RANK, lora_alpha=16, target_modules=MODULES, task_type="CAUSAL_LM")
    paths = [folder / f"adapter-{index}" for index in range(3)]
    for path in paths:
        peft = get_peft_model(base, lora)
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)
        peft.save_pretrained(path)
        base = peft.unload()
    model = PeftModel.from_pretrained(base, paths[0], adapter_name="a0").eval()
    for index, path in enumerate(paths[1:], 1):
        model.load_adapter(path, adapter_name=f"a{index}")
    layout = read_architecture(folder / "base")
    weights = load_weights(folder / "base", layout, device=torch.device("cpu"), dtype=torch.float32)
    engine = Engine(
        Model(layout, weights), max_batch=32, slots=4, cache_tokens=32768, prefix_tokens=16384
    )
    digests = []
    for path in paths:
        content = content_digest(path, digest)
        adapter = read_adapter(path, content, base=digest, shape=layout, dtype=torch.float32)
        engine.install(content, adapter, "benchmark")
        digests.append(content)
    return model, digests, engine


class _Ours:
    def __init__(self, engine: Any, digests: list[str], count: int) -> None:
        self._engine, self._digests, self._count = engine, digests, count

    def run(self, work: list[tuple[int, list[int], int]]) -> None:
        for adapter, prompt, batch in work:
            self._submit(adapter, prompt)
            while batch == 1 and self._engine.busy:
                self._engine.step()
        while self._engine.busy:
            self._engine.step()

    def _submit(self, adapter: int, prompt: list[int]) -> None:
        from appliance.engine.wire import Generate
        from appliance.inference.sequence import Stream

        # The prefix cache would make ours look better than decoding is: a fresh first id each time.
        self._fresh = getattr(self, "_fresh", 0) + 1
        request = Generate(
            prompt_ids=[self._fresh % 400, self._fresh // 400, *prompt[2:]],
            adapter=self._digests[adapter],
            max_tokens=self._count,
            temperature=0.0,
        )
        self._engine.add(Stream(request, 0, lambda *_: None, lambda *_: None))


class _Theirs:
    def __init__(self, model: Any, count: int) -> None:
        self._model, self._count = model, count

    def grouped(self, work: list[tuple[int, list[int], int]]) -> None:
        """One batch per adapter."""
        for adapter in sorted({adapter for adapter, _, _ in work}):
            self._model.set_adapter(f"a{adapter}")
            self._generate([prompt for a, prompt, _ in work if a == adapter])

    def mixed(self, work: list[tuple[int, list[int], int]]) -> None:
        """One batch, PEFT choosing the adapter row by row."""
        names = [f"a{adapter}" for adapter, _, _ in work]
        self._generate([prompt for _, prompt, _ in work], adapter_names=names)

    def _generate(self, prompts: list[list[int]], **more: Any) -> None:
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self._count,
                min_new_tokens=self._count,
                do_sample=False,
                pad_token_id=0,
                **more,
            )


if __name__ == "__main__":
    main()
