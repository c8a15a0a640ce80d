"""One machine for people and a round: how long answers take while the trainer works beside them.

``python -m benchmarks.sharing [--json] [--base tiny|smollm2] [--repeats 3]``

All are real: the embedded engine on its socket, the trainer's program over a sealed dataset,
started and paused by the very step that the control plane's worker runs. One client asks
interactively, at a steady rate, a fresh prompt each time; an answer's time counts from when it was
due. Four ways, in turn, `--repeats` times: people alone; with training that never yields
(trainer_share 1); with the budget as it is by default; and training that nobody disturbs, for its
time. Figures are the medians of the repeats. Every training must end in the same adapter.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapter_training.bases.smollm2 import fetch_smollm2
from appliance.control import programs, steps
from appliance.control.rounds import Order, Round
from appliance.control.steps import Ground
from appliance.core.database import Database
from appliance.core.digests import Digest, digest_bytes
from appliance.core.errors import UnavailableError
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.records import ArrayRef, Dataset, Example, encode
from appliance.core.settings import Gpu, Settings
from appliance.engine.bases import Base, Registry
from appliance.engine.client import Engine
from appliance.engine.template import Template
from appliance.engine.wire import Generate
from benchmarks.about import about
from policies.lifecycle import State
from tests.services.tiny import bring_tiny

BUDGET = Gpu().trainer_share
WAYS: dict[str, float | None] = {"people alone": None, "no budget": 1.0, "budget": BUDGET}
"""`trainer_share` of each way in which people ask."""
UNDISTURBED = "nobody asks"


@dataclass(frozen=True)
class Plan:
    """What is asked of a base, and trained on it."""

    threads: int
    """Of the engine: what it takes by itself on two cores of their own."""
    per_s: float
    new_tokens: int
    examples: int
    epochs: int
    batch_tokens: int
    alone_s: float = 15.0


PLANS = {
    "tiny": Plan(threads=1, per_s=5, new_tokens=64, examples=600, epochs=2, batch_tokens=4096),
    "smollm2": Plan(threads=2, per_s=1.5, new_tokens=8, examples=8, epochs=2, batch_tokens=256),
}


def main() -> None:
    """Print a table, and with --json one last line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sharing", description=__doc__)
    parser.add_argument("--base", choices=PLANS, default="tiny")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="last line is one JSON object")
    options = parser.parse_args()
    facts = about("torch")
    with tempfile.TemporaryDirectory(prefix="espalier-sharing-") as folder:
        bench = Bench(Path(folder), options.base)
        with bench.engine():
            result = bench.measure(options.repeats)
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print(f"{'':14} first token p50, p99   whole answer p50, p99 (ms)   answers   training")
    for way, row in result["ways"].items():
        print(_line(way, row))
    if options.json:
        print(json.dumps({**facts, "base": options.base, **result}))


def _line(way: str, row: dict[str, Any]) -> str:
    asked = row["answers"]
    first = f"{row['first_p50_ms']:8.1f} {row['first_p99_ms']:8.1f}" if asked else " " * 17
    whole = f"{row['whole_p50_ms']:8.1f} {row['whole_p99_ms']:8.1f}" if asked else " " * 17
    training = f"{row['training_s']:7.1f} s" if row["training_s"] else ""
    return f"{way:14} {first}      {whole}              {asked:5}   {training}"


class Bench:
    """A home with a base and a dataset, and rounds over it."""

    def __init__(self, folder: Path, base: str) -> None:
        self._plan = PLANS[base]
        self._home = Home(folder / "home")
        self._home.create()
        self._base = _bring(self._home, base)
        self._home.settings.write_text(
            f'[engine]\nbase = "{base}"\nthreads = {self._plan.threads}\n'
        )
        self._database = Database.open(self._home.database)
        self._store = ObjectStore(self._home.objects)
        self._template = Template.load(self._base.path)
        self._dataset = self._seal()
        self._rounds = 0
        self._adapters: set[str] = set()

    @contextmanager
    def engine(self) -> Iterator[None]:
        """While it runs."""
        log = self._home.process_logs / "engine.log"
        process = programs.start(
            "appliance.inference", "serve", home=self._home, log=log, threads=0
        )
        try:
            deadline = time.monotonic() + 120
            while not self._answers():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(log.read_text())
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait(30)

    def measure(self, repeats: int) -> dict[str, Any]:
        """Every way in turn, `repeats` times; the medians."""
        self._train(1.0)  # so that the first one timed finds the files in memory, too
        with self._asking() as warm:
            time.sleep(3)
        if not warm.answers:
            raise SystemExit("the engine answers nothing")
        rows: dict[str, list[dict[str, float]]] = {way: [] for way in (*WAYS, UNDISTURBED)}
        for turn in range(repeats):
            for way, share in WAYS.items():
                with self._asking() as asker:
                    seconds = 0.0 if share is None else self._train(share)
                    if share is None:
                        time.sleep(self._plan.alone_s)
                rows[way].append({**asker.figures(), "training_s": seconds})
                print(f"{turn + 1}: {_line(way, rows[way][-1])}", file=sys.stderr)
            rows[UNDISTURBED].append({"answers": 0, "training_s": self._train(BUDGET)})
            print(f"{turn + 1}: {_line(UNDISTURBED, rows[UNDISTURBED][-1])}", file=sys.stderr)
        if len(self._adapters) != 1:
            raise SystemExit(f"one adapter expected, got {self._adapters}")
        return {
            "repeats": repeats,
            "trainer_share": BUDGET,
            "engine_threads": self._ask().health().capabilities["threads"],
            "ways": {way: _medians(found) for way, found in rows.items()},
        }

    def _train(self, share: float) -> float:
        """Seconds that the step of a round takes."""
        self._rounds += 1
        order = Order(
            recipe=self._store.put(self._recipe()), gates=digest_bytes(b""), suites={}, idle_s=0.0
        )
        round_ = Round(
            round=self._rounds, state=State.TRAINING, verdict=None, reason="", authors=(),
            order=order, champion=None, dataset=self._dataset, adapter=None, scorecard=None,
            fencing=0, created_at=0.0, changed_at=0.0,
        )  # fmt: skip
        settings = Settings(gpu=Gpu(trainer_share=share))
        ground = Ground(self._home, settings, self._database, self._store)
        begun = time.monotonic()
        made = steps.train(ground, round_, lambda: None).made or {}
        self._adapters.add(made["adapter"])
        return time.monotonic() - begun

    def _recipe(self) -> bytes:
        plan = self._plan
        return f"epochs = {plan.epochs}\nbatch_tokens = {plan.batch_tokens}\n".encode()

    def _asking(self) -> "_Asker":
        return _Asker(self._ask(), self._template, self._plan)

    def _ask(self) -> Engine:
        return Engine(self._home.socket("engine"))

    def _answers(self) -> bool:
        try:
            return bool(self._ask().health().base)
        except UnavailableError:
            return False

    def _seal(self) -> Digest:
        examples = tuple(self._example(number) for number in range(self._plan.examples))
        dataset = Dataset(
            base=self._base.digest, template=self._template.digest, recipe=digest_bytes(b""),
            label="internal", trajectories=tuple((e.trajectory_id, 1) for e in examples),
            examples=examples, exclusions=(), counts={},
        )  # fmt: skip
        return self._store.put(encode(dataset))

    def _example(self, number: int) -> Example:
        asked = {"role": "user", "content": f"How high is gauge {number} at hour {number * 7}?"}
        answer = {"role": "assistant", "content": f"{number * 31 % 97} feet"}
        spans = self._template.spans([asked, answer])
        return Example(
            trajectory_id=f"t{number:06}", version=1, node=0, kind="success", tier="silver",
            family="gauges", task=f"task{number}", reward=1.0, adapter=None, logprobs=None,
            ids=self._array(spans.ids, "int32", "<i4"),
            mask=self._array(spans.mask, "uint8", "|u1"),
        )  # fmt: skip

    def _array(self, values: Any, dtype: Any, wire: str) -> ArrayRef:
        digest = self._store.put(np.array(values, dtype=wire).tobytes())
        return ArrayRef(digest_of_bytes=digest, dtype=dtype, count=len(values))


class _Asker(threading.Thread):
    """Asks at a steady rate while inside; `figures` afterwards."""

    def __init__(self, engine: Engine, template: Template, plan: Plan) -> None:
        super().__init__(name="asker")
        self._engine, self._template, self._plan = engine, template, plan
        self._done = threading.Event()
        self.answers: list[tuple[float, float]] = []
        """(ms to the first token, ms to the last)."""

    def __enter__(self) -> "_Asker":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        """The thread's body."""
        begun = time.perf_counter()
        number = 0
        while not self._done.is_set():
            due = begun + number / self._plan.per_s
            self._done.wait(max(0.0, due - time.perf_counter()))
            self._answer(number, due)
            number += 1

    def _answer(self, number: int, due: float) -> None:
        question = f"Tide {number * 7919 % 9973}: how high is the river at the second gauge?"
        request = Generate(
            prompt_ids=self._template.encode([{"role": "user", "content": question}]),
            max_tokens=self._plan.new_tokens,
            temperature=0.0,
        )
        first = 0.0
        for line in self._engine.stream(request):
            if line.ids and not first:
                first = time.perf_counter()
        self.answers.append(((first - due) * 1000, (time.perf_counter() - due) * 1000))

    def figures(self) -> dict[str, float]:
        """Percentiles over all answers."""
        found: dict[str, float] = {"answers": len(self.answers)}
        for at, name in enumerate(("first", "whole")):
            times = np.array([answer[at] for answer in self.answers])
            found |= {f"{name}_p{p}_ms": float(np.percentile(times, p)) for p in (50, 99)}
        return found


def _medians(rows: list[dict[str, float]]) -> dict[str, float]:
    found = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    return {name: int(v) if name == "answers" else round(v, 2) for name, v in found.items()}


def _bring(home: Home, name: str) -> Base:
    if name == "smollm2":
        return fetch_smollm2(home)
    shutil.rmtree(home.bases)
    shutil.copytree(bring_tiny() / "bases", home.bases)
    return Registry(home).get(name)


if __name__ == "__main__":
    main()
