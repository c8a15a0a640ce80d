"""``python -m serving``: run the gateway, manage agents' keys, check an adapter."""

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from appliance.core.database import Database
from appliance.core.digests import parse_digest
from appliance.core.errors import AdapterError, EspalierError, NotFoundError
from appliance.core.home import Home
from appliance.core.settings import load_settings
from serving.keys import Key, add_key, list_keys, revoke_key

_ACTOR = "command line"


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
    home = _home(arguments)
    home.create()
    serve(home, load_settings(home))
    return 0


def _key_add(arguments: argparse.Namespace) -> int:
    home = _home(arguments)
    home.create()
    label = arguments.label or load_settings(home).gateway.label
    secret, key = add_key(
        _database(home),
        team=arguments.team,
        project=arguments.project,
        agent=arguments.agent,
        label=label,
        exact=arguments.exact,
        actor=_ACTOR,
    )
    _print(arguments, {"key": secret, **_shown(key)}, f"{secret}\n  {_line(key)}")
    return 0


def _key_list(arguments: argparse.Namespace) -> int:
    found = list_keys(_database(_home(arguments)))
    text = "\n".join(map(_line, found)) or "no keys yet: espalier key add"
    _print(arguments, {"keys": [_shown(key) for key in found]}, text)
    return 0


def _key_revoke(arguments: argparse.Namespace) -> int:
    revoke_key(_database(_home(arguments)), arguments.key_id, actor=_ACTOR)
    _print(arguments, {"key_id": arguments.key_id, "revoked": True}, f"{arguments.key_id} revoked")
    return 0


def _adapter_verify(arguments: argparse.Namespace) -> int:
    from appliance.engine.bases import Registry
    from serving.adapter_check import base_config, next_step_for, stated_base, verify_adapter

    folder = arguments.folder
    try:
        expected = parse_digest(arguments.digest) if arguments.digest else None
        stated = stated_base(folder)
        try:
            base = Registry(_home(arguments)).get(stated)
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
    parser = argparse.ArgumentParser(prog="serving", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", parents=[common], help="run the gateway")
    serve.set_defaults(run=_serve)

    keys = commands.add_parser("key", help="agents' keys").add_subparsers(required=True)
    add = keys.add_parser("add", parents=[common], help="make a key; it is shown once")
    for name in ("team", "project", "agent"):
        add.add_argument(f"--{name}", default="default")
    add.add_argument("--label", help="what its turns are labelled (default: the endpoint's label)")
    add.add_argument("--exact", action="store_true", help="may address @sha256:… and @base")
    add.set_defaults(run=_key_add)
    keys.add_parser("list", parents=[common], help="all keys").set_defaults(run=_key_list)
    revoke = keys.add_parser("revoke", parents=[common], help="make a key worthless")
    revoke.add_argument("key_id")
    revoke.set_defaults(run=_key_revoke)

    adapter = commands.add_parser("adapter", help="adapters").add_subparsers(required=True)
    verify = adapter.add_parser("verify", parents=[common], help="check a stranger's adapter")
    verify.add_argument("folder", type=Path)
    verify.add_argument("--digest", help="what its content digest must be")
    verify.set_defaults(run=_adapter_verify)
    return parser


def _home(arguments: argparse.Namespace) -> Home:
    return Home.find(arguments.home)


def _database(home: Home) -> Database:
    home.create()
    return Database.open(home.database)


def _print(arguments: argparse.Namespace, value: dict[str, Any], text: str) -> None:
    print(json.dumps(value) if arguments.json else text)


def _shown(key: Key) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(key)
    return shown


def _line(key: Key) -> str:
    made = time.strftime("%Y-%m-%d", time.gmtime(key.created_at))
    state = "revoked" if key.revoked_at else "exact versions" if key.exact else "alias only"
    return f"{key.key_id}  {key.team}/{key.project}/{key.agent}  {key.label}  {state}  {made}"
