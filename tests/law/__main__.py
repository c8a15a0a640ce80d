"""`python -m tests.law`: very many sequences of review actions against the law."""

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.law.machine import CHUNK, run_some


def main() -> int:
    """Run them; 0 where the law held in all."""
    parser = argparse.ArgumentParser(prog="python -m tests.law", description=__doc__)
    parser.add_argument("--sequences", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    began = time.monotonic()
    chunks = [options.seed + n for n in range(-(-options.sequences // CHUNK))]
    totals: dict[str, int] = {}
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for number, found in enumerate(pool.map(run_some, chunks), start=1):
            totals = {name: totals.get(name, 0) + found[name] for name in found}
            left = (time.monotonic() - began) / number * (len(chunks) - number)
            print(
                f"{totals['sequences']} sequences, {totals['releases']} releases, "
                f"about {left:.0f} s left",
                file=sys.stderr,
            )
    print(
        f"{totals['sequences']} sequences, {totals['acts']} acts ({totals['refused']} refused), "
        f"{totals['releases']} releases, 0 against the law, {time.monotonic() - began:.0f} s"
    )
    return 0 if totals["releases"] else 1


if __name__ == "__main__":
    sys.exit(main())
