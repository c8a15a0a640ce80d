"""What a verdict costs: programs per second through the sandbox, and what a fresh box costs.

    python -m benchmarks.sandbox --json

A batch of tiny programs is run in boxes that are up already (as a fleet has them) and, apart from
that, in a sandbox opened for the batch (as an evaluation does). `bare` is a new interpreter for
each program with no box at all, for comparison.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

from appliance.sandbox.programs import Program, Status
from appliance.sandbox.sandbox import Sandbox, open_sandbox
from benchmarks.about import about

_SOURCE = (
    "def run(answer, case):\n    space = {}\n    exec(answer, space)\n    return space['f'](case)"
)


def main() -> None:
    """Print a table, and with --json one last line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=64, help="programs per batch")
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--jobs", type=int, help="boxes at once; default: one per core, up to 4")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    programs = [
        Program(source=_SOURCE, answer=f"f = lambda x: x + {n}", cases=(1, 2, 3))
        for n in range(options.programs)
    ]
    with open_sandbox(jobs=options.jobs) as sandbox:
        name, jobs = sandbox.name, sandbox.jobs
        _batch(sandbox, programs)
        warm_s = [_batch(sandbox, programs) for _ in range(options.batches)]
    cold_s = [_cold(programs, options.jobs) for _ in range(options.batches)]
    start_s = [_cold(programs[:1], options.jobs) for _ in range(options.batches)]
    bare_s = [_bare() for _ in range(options.batches)]
    median = statistics.median
    result = {
        **about(),
        "sandbox": name,
        "jobs": jobs,
        "programs": options.programs,
        "batch_ms": round(1e3 * median(warm_s), 1),
        "batch_with_opening_ms": round(1e3 * median(cold_s), 1),
        "per_program_ms": round(1e3 * median(warm_s) / options.programs, 3),
        "programs_per_s": round(options.programs / median(warm_s)),
        "open_and_one_program_ms": round(1e3 * median(start_s), 1),
        "bare_interpreter_ms": round(1e3 * median(bare_s), 1),
    }
    for key, value in result.items():
        print(f"{key:26} {value}")
    if options.json:
        print(json.dumps(result))


def _batch(sandbox: Sandbox, programs: list[Program]) -> float:
    started = time.perf_counter()
    runs = sandbox.run(programs)
    seconds = time.perf_counter() - started
    if any(run.status is not Status.FINISHED for run in runs):
        raise SystemExit(f"a program did not finish: {runs[0]}")
    return seconds


def _cold(programs: list[Program], jobs: int | None) -> float:
    started = time.perf_counter()
    with open_sandbox(jobs=jobs) as sandbox:
        _batch(sandbox, programs)
    return time.perf_counter() - started


def _bare() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-S", "-c", "print(1 + 1)"], check=True, stdout=-3)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
