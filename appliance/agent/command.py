"""``python -m appliance.agent fleet …``: put a fleet of agents to work against a gateway."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from appliance.agent.tasks import read_tasks
from appliance.core.errors import EspalierError, NotFoundError, RecordError, UsageError
from appliance.sandbox.sandbox import open_sandbox


class _Correction(msgspec.Struct, forbid_unknown_fields=True):
    task: str
    text: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return asyncio.run(_fleet(options))
    except EspalierError as error:
        print(f"espalier: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="espalier agent")
    commands = parser.add_subparsers(dest="command", required=True)
    fleet = commands.add_parser("fleet", help="many agents at once on a file of tasks")
    fleet.add_argument("--tasks", type=Path, required=True, help="JSON lines, one task each")
    fleet.add_argument(
        "--base-url",
        default=os.environ.get("OPENAI_BASE_URL"),
        help="of the gateway, ending in /v1 (default: $OPENAI_BASE_URL)",
    )
    fleet.add_argument(
        "--api-key", default=os.environ.get("OPENAI_API_KEY"), help="default: $OPENAI_API_KEY"
    )
    fleet.add_argument("--model", required=True)
    fleet.add_argument("--out", type=Path, required=True, help="results, one line a trajectory")
    fleet.add_argument("--concurrency", type=int, default=16, help="agents at once")
    fleet.add_argument("--attempts", type=int, default=1, help="trajectories per task")
    fleet.add_argument("--max-answers", type=int, default=3, help="answers per trajectory")
    fleet.add_argument("--temperature", type=float, default=1.0)
    fleet.add_argument("--stream", type=float, default=0.0, help="share of requests streamed")
    fleet.add_argument("--seed", type=int, help="makes every draw repeatable")
    fleet.add_argument("--timeout", type=float, default=120.0, help="seconds per request")
    fleet.add_argument(
        "--corrections",
        type=Path,
        help='JSON lines {"task", "text"}: what somebody says these answers should have been',
    )
    fleet.add_argument(
        "--correction-share",
        type=float,
        default=0.0,
        help="share of the failed trajectories that are corrected with the task's gold answer",
    )
    fleet.add_argument("--until-file", type=Path, help="go on until this file appears")
    fleet.add_argument(
        "--shuffle-feedback", type=int, metavar="SEED", help="control: permute the outcomes"
    )
    fleet.add_argument("--flip-feedback", action="store_true", help="poison: report the opposite")
    fleet.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    fleet.add_argument("--json", action="store_true", help="last line is one JSON object")
    return parser


async def _fleet(options: argparse.Namespace) -> int:
    tasks = read_tasks(options.tasks)
    _refuse_nonsense(options)
    # The client is heavy; a usage error should not wait for it.
    import openai

    from appliance.agent.fleet import Fleet, Plan

    plan = Plan(
        model=options.model,
        concurrency=options.concurrency,
        attempts=options.attempts,
        max_answers=options.max_answers,
        temperature=options.temperature,
        stream=options.stream,
        seed=options.seed,
        correction_share=options.correction_share,
        corrections=_read_corrections(options.corrections) if options.corrections else {},
        shuffle_feedback=options.shuffle_feedback,
        flip_feedback=options.flip_feedback,
        until_file=options.until_file,
    )
    # No retries: a request that failed is counted, not hidden.
    client = openai.AsyncOpenAI(
        base_url=options.base_url,
        api_key=options.api_key,
        max_retries=0,
        timeout=options.timeout,
    )
    with open_sandbox() as sandbox, options.out.open("wb") as out:
        async with client:
            fleet = Fleet(plan, tasks, client=client, sandbox=sandbox, out=out)
            summary = await fleet.run()
    if options.json:
        print(msgspec.json.encode(summary).decode(), flush=True)
    else:
        print(
            f"{summary.trajectories} trajectories: {summary.ok} ok, {summary.failed} failed,"
            f" {summary.unknown} unknown; {summary.requests} requests,"
            f" {summary.failed_requests} failed; {summary.seconds:.1f} s"
        )
    return 0


def _refuse_nonsense(options: argparse.Namespace) -> None:
    for name in ("base_url", "api_key"):
        if not getattr(options, name):
            variable = f"OPENAI_{name.upper()}"
            raise UsageError(
                f"--{name.replace('_', '-')} is missing", next_step=f"or set {variable}"
            )
    for name in ("concurrency", "attempts", "max_answers"):
        if getattr(options, name) < 1:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} must be at least 1, got {getattr(options, name)}")
    for name in ("stream", "correction_share"):
        if not 0 <= getattr(options, name) <= 1:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} must be from 0 to 1, got {getattr(options, name)}")


def _read_corrections(path: Path) -> dict[str, str]:
    try:
        lines = path.read_bytes().splitlines()
        read = [msgspec.json.decode(line, type=_Correction) for line in lines if line.strip()]
    except OSError as error:
        raise NotFoundError(f"cannot read corrections from {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: {error}") from error
    return {correction.task: correction.text for correction in read}
