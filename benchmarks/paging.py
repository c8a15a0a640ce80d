"""What paging the cache costs on a CPU: blocks mapped into rows, gathered, or not paged at all.

    python -m benchmarks.paging [--json] [--threads N]

In the shape of SmolLM2, float32. `attention`: one decoding step's, over 30 layers, for 32 rows,
reading rows that are mapped from blocks, gathered from blocks, or plain memory. `reuse`: what a
prompt's beginning of 512 tokens costs a request that finds it: mapped (and touched), or copied.
`grow`: a decoding row's next 64 tokens of room. `rows`: sequences that a cache of 16,384 tokens
holds when one has 4,096 and the others 128: blocks, against rows of one length.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from appliance.inference.architecture import Architecture
from appliance.inference.attention import Decode
from appliance.inference.kv_pages import GatheredPages, KVRows, MappedPages, PlainRows
from benchmarks.about import about

_ROWS, _LENGTHS, _REPEATS = 32, (64, 512), 9
_SHAPE = Architecture(
    num_layers=30,
    hidden_size=576,
    intermediate_size=1536,
    num_heads=9,
    num_kv_heads=3,
    head_size=64,
    vocab_size=49152,
    norm_eps=1e-5,
    tied=True,
    context_length=8192,
    inverse_frequencies=(),
)
_CPU, _DTYPE = torch.device("cpu"), torch.float32


def main() -> None:
    """Measure, print, and with --json one last line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paging", description=__doc__)
    parser.add_argument("--json", action="store_true", help="a last line of JSON")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        attention = [_attention(length) for length in _LENGTHS]
        reuse, grow = _reuse(), _grow()
    rows = {"blocks": 1 + (16384 - 4096) // 128, "one_length": 16384 // 4096}
    for case in attention:
        print("attention, ms a step:", case)
    print("reuse of 512 tokens, ms:", reuse)
    print("grow by 64 tokens, ms:", grow)
    print("rows:", rows)
    if options.json:
        figures = {"attention_ms": attention, "reuse_ms": reuse, "grow_ms": grow, "rows": rows}
        print(json.dumps({**about("torch"), "threads": options.threads, **figures}))


def _attention(length: int) -> dict[str, float]:
    """The ways take turns, so that a busy machine is as busy for each."""
    plain = PlainRows(torch.ones(_SHAPE.num_layers, _ROWS, length, _SHAPE.kv_width))
    ways = {"mapped": _placed(_pages(MappedPages), length), "plain": plain}
    steps = {name: _step(rows, length) for name, rows in ways.items()}
    steps["gathered"] = _step(_placed(_pages(GatheredPages), length), length)
    return {"length": length, **_medians(steps)}


def _pages(kind: type) -> MappedPages | GatheredPages:
    made: MappedPages | GatheredPages = kind(
        _SHAPE, max_rows=_ROWS, max_tokens=_ROWS * 640, device=_CPU, dtype=_DTYPE
    )
    made.data.fill_(1.0)
    return made


def _placed(pages: MappedPages | GatheredPages, length: int) -> KVRows:
    """Every row has blocks that lie four by four, as growing rows get them."""
    count = length // pages.block
    for row in range(_ROWS):
        blocks = [(at // 4 * _ROWS + row) * 4 + at % 4 for at in range(count)]
        pages.place(row, 0, blocks)
    return pages


def _step(rows: KVRows, length: int) -> Callable[[], None]:
    positions = torch.full((_ROWS,), length - 1)
    attend = Decode(_SHAPE, rows, positions, _ROWS, length, _DTYPE)
    width = _SHAPE.num_heads * _SHAPE.head_size + _SHAPE.kv_width
    qkv = torch.randn(_ROWS, width)

    def step() -> None:
        for layer in range(_SHAPE.num_layers):
            attend(layer, qkv)

    return step


def _reuse() -> dict[str, float]:
    pages = _pages(MappedPages)
    blocks = list(range(512 // pages.block))
    index = torch.tensor(blocks)
    copies = torch.zeros(_REPEATS, _SHAPE.num_layers, len(blocks), pages.block, _SHAPE.kv_width)
    copies += 1  # Memory of rows that were used before: its pages are there.
    into = iter(copies)
    rows = iter(range(_ROWS))

    def mapped() -> None:
        at = next(rows)
        pages.place(at, 0, blocks)
        _touch(pages, at)

    def copied() -> None:
        torch.index_select(pages.data, 1, index, out=next(into))

    return _medians({"mapped": mapped, "copied": copied})


def _touch(pages: MappedPages, row: int) -> None:
    """Read a number of every page: the first use of a mapped page costs a fault."""
    for layer in range(_SHAPE.num_layers):
        seen: Tensor = pages.read(layer, slice(row, row + 1), 512)
        seen[:, ::2, 0].sum()


def _grow() -> dict[str, float]:
    pages = _pages(MappedPages)
    free = iter(range(0, pages.count, 4))

    def four() -> None:
        first = next(free)
        pages.place(first // 4 % _ROWS, 0, range(first, first + 4))

    return _medians({"mapped": four})


def _medians(ways: dict[str, Callable[[], None]]) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_REPEATS):
        for name, act in ways.items():
            begun = time.perf_counter()
            act()
            seconds[name].append(time.perf_counter() - begun)
    return {name: round(1e3 * statistics.median(series), 2) for name, series in seconds.items()}


if __name__ == "__main__":
    main()
