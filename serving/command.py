"""``python -m serving``: run the gateway, manage agents' keys, check an adapter."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from appliance.core.digests import Digest, parse_digest
from appliance.core.errors import (
    AdapterError,
    EspalierError,
    NotFoundError,
    RecordError,
    UsageError,
)
from appliance.core.home import Home
from appliance.core.settings import load_settings
from serving import key_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except EspalierError as error:
        print(f"espalier: {error}", file=sys.stderr)
        return error.exit_code
    return code


def _serve(arguments: argparse.Namespace) -> int:
    from serving.server import serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    home = Home.find(arguments.home)
    home.create()
    serve(home, load_settings(home))
    return 0


def _adapter_verify(arguments: argparse.Namespace) -> int:
    from appliance.engine.bases import Registry
    from serving.adapter_check import base_config, next_step_for, stated_base, verify_adapter

    home, folder = _home(arguments), arguments.folder
    expected = _digest(arguments.digest)
    try:
        stated = stated_base(folder)
        try:
            base = Registry(home).get(stated)
        except NotFoundError:
            raise AdapterError(
                "wrong_base",
                f"trained on base {stated or 'unknown'!r}, which is not registered here",
            ) from None
        content = verify_adapter(folder, base.digest, base_config(base.path), expected=expected)
    except AdapterError as error:
        step = error.next_step or next_step_for(error.reason)
        answer = {"ok": False, "reason": error.reason, "detail": error.message, "next_step": step}
        print(
            f"espalier: {folder}: {error.reason}: {error.message}\n  next: {step}", file=sys.stderr
        )
        if arguments.json:
            print(json.dumps(answer))
        return error.exit_code
    detail = {"digest": content, "base": base.digest}
    _print(arguments, {"ok": True, "reason": None, "detail": detail}, f"{folder}: ok, {content}")
    return 0


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--home", type=Path, help="state folder (else $ESPALIER_HOME)")
    common.add_argument("--json", action="store_true", help="last line is one JSON object")
    parser = argparse.ArgumentParser(prog="python -m serving", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", parents=[common], help="run the gateway")
    serve.set_defaults(run=_serve)

    key_command.add_to(commands, common)

    adapter = commands.add_parser("adapter", prog="espalier adapter", help="adapters")
    verify = adapter.add_subparsers(required=True).add_parser(
        "verify", parents=[common], help="check a stranger's adapter"
    )
    verify.add_argument("folder", type=Path)
    verify.add_argument("--digest", help="what its content digest must be")
    verify.set_defaults(run=_adapter_verify)
    return parser


def _home(arguments: argparse.Namespace) -> Home:
    return Home.existing(arguments.home)


def _digest(text: str | None) -> Digest | None:
    try:
        return None if text is None else parse_digest(text)
    except RecordError as error:
        raise UsageError(
            f"--digest: {error.message}",
            next_step="without --digest, espalier adapter verify prints the one that it has",
        ) from error


def _print(arguments: argparse.Namespace, value: dict[str, Any], text: str) -> None:
    print(json.dumps(value) if arguments.json else text)
