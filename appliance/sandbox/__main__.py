"""``python -m appliance.sandbox run``: Python code on stdin runs in the box; what it did comes out.

It ends with 0 however the code ended: what the code did is the answer, not our error.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from appliance.core.errors import EspalierError, UnavailableError
from appliance.sandbox.programs import Run, Status
from appliance.sandbox.sandbox import open_sandbox
from appliance.sandbox.whole_program import CODE_MAX_BYTES, whole_program


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        shown = _run(arguments.timeout_s)
    except EspalierError as error:
        print(f"espalier: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(shown) if arguments.json else _text(shown))
    return 0


def _run(timeout_s: float) -> dict[str, Any]:
    program = whole_program(sys.stdin.buffer.read(CODE_MAX_BYTES + 1), timeout_s=timeout_s)
    with open_sandbox(jobs=1) as sandbox:
        (run,) = sandbox.run([program])
        name = sandbox.name
    if run.status is Status.LOST:
        raise UnavailableError(f"the sandbox failed: {run.detail}", next_step="try again")
    return {**_shown(run), "sandbox": name}


def _shown(run: Run) -> dict[str, Any]:
    return {
        "status": run.status,
        "printed": run.printed,
        "error": run.error,
        "detail": run.detail,
        "seconds": round(run.seconds, 3),
    }


def _text(shown: dict[str, Any]) -> str:
    ended = f"{shown['status']} after {shown['seconds']:.2f} s"
    return "\n".join(part for part in (shown["printed"], shown["detail"], ended) if part)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="appliance.sandbox", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    run = verbs.add_parser("run", help="run the Python code on stdin in the box")
    run.add_argument("--timeout-s", type=float, default=5.0, help="wall time (default 5)")
    run.add_argument("--json", action="store_true", help="one JSON object as the last line")
    run.set_defaults(verb="run")
    return parser


if __name__ == "__main__":
    sys.exit(main())
