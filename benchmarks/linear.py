"""Products with a base's frozen weights: PyTorch's own, and ours through oneDNN.

    python -m benchmarks.linear [--json] [--threads N]

`engine` is appliance/inference/linear.py, with weights laid out beforehand; `trainer` is
adapter_training/linear.py, forward and backward, against the same with PyTorch's `linear`. Shapes
are those of SmolLM2-135M; the best of several runs counts, in microseconds.
"""

import argparse
import json
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from adapter_training.linear import linear
from appliance.inference.linear import product
from benchmarks.about import about

_SHAPES = ((1, 576, 3072), (32, 576, 3072), (400, 576, 1536))
_REPEATS = 30


def main() -> None:
    """Print a table, and with --json one last line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.linear", description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="last line is one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [row for shape in _SHAPES for row in _measure(*shape)]
    print("what     rows    in   out  torch µs   ours µs  ratio")
    for row in rows:
        ratio = row["torch_us"] / row["ours_us"]
        print(
            f"{row['what']:8} {row['rows']:4} {row['in']:5} {row['out']:5} "
            f"{row['torch_us']:9.0f} {row['ours_us']:9.0f} {ratio:6.2f}"
        )
    if options.json:
        print(json.dumps({**about("torch"), "threads": options.threads, "rows": rows}))


def _measure(rows: int, num_in: int, num_out: int) -> list[dict[str, object]]:
    x = torch.randn(rows, num_in)
    weight = torch.randn(num_out, num_in)
    ours = product(weight.clone())
    grown = x.clone().requires_grad_()

    def trains(multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        multiply(grown, weight).sum().backward()  # type: ignore[no-untyped-call]  # torch's gap

    named = {"rows": rows, "in": num_in, "out": num_out}
    engine = {
        "torch_us": _best_us(lambda: functional.linear(x, weight)),
        "ours_us": _best_us(lambda: ours(x)),
    }
    trainer = {
        "torch_us": _best_us(lambda: trains(functional.linear)),
        "ours_us": _best_us(lambda: trains(linear)),
    }
    return [{"what": "engine", **named, **engine}, {"what": "trainer", **named, **trainer}]


def _best_us(act: Callable[[], object]) -> float:
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        act()
        times.append(time.perf_counter() - began)
    return round(1e6 * min(times), 1)


if __name__ == "__main__":
    main()
