"""``espalier key``: make, list, revoke; limit, pause and kill what asks."""

import argparse
import getpass
import http.client
import json
import socket
import time
from typing import Any

from appliance.core.database import Database
from appliance.core.errors import UsageError
from appliance.core.home import Home
from appliance.core.settings import load_settings
from serving.budgets import DAY_S
from serving.key_lines import (
    key_line,
    key_value,
    limits_line,
    limits_value,
    pause_value,
    usage_lines,
    usage_value,
)
from serving.keys import Scope, add_key, list_keys, revoke_key
from serving.limits import Limits, list_limits, set_limits
from serving.pauses import list_pauses, pause, resume

_TELL_TIMEOUT_S = 5.0


def add_to(commands: Any, common: argparse.ArgumentParser) -> None:
    """Put ``key`` and what it does beside the other commands."""
    program = commands.add_parser("key", prog="espalier key", help="agents' keys")
    keys = program.add_subparsers(required=True)
    add = keys.add_parser("add", parents=[common], help="make a key; it is shown once")
    for name in ("team", "project", "agent"):
        add.add_argument(f"--{name}", default="default")
    add.add_argument("--label", help="what its turns are labelled (default: the endpoint's label)")
    add.add_argument("--exact", action="store_true", help="may address @sha256:…, @17 and @base")
    add.add_argument("--metrics", action="store_true", help="may read /metrics")
    _take_limits(add)
    add.set_defaults(run=_add)
    keys.add_parser("list", parents=[common], help="all keys").set_defaults(run=_list)
    revoke = keys.add_parser("revoke", parents=[common], help="make a key worthless")
    revoke.add_argument("key_id")
    revoke.set_defaults(run=_revoke)
    change = keys.add_parser("set", parents=[common], help="limit a key, an agent or a team")
    _take_scope(change)
    _take_limits(change)
    change.set_defaults(run=_set)
    keys.add_parser(
        "usage", parents=[common], help="limits and what is left, pauses, what was used"
    ).set_defaults(run=_usage)
    for verb, words in (
        ("pause", "refuse its new requests"),
        ("kill", "end those under way too"),
        ("resume", "undo a pause or a kill"),
    ):
        stop = keys.add_parser(verb, parents=[common], help=words)
        _take_scope(stop)
        stop.add_argument("--reason", required=True, help="what the agents and the audit log read")
        stop.set_defaults(run=_resume if verb == "resume" else _stop, killed=verb == "kill")


def _take_scope(parser: argparse.ArgumentParser) -> None:
    scope = parser.add_mutually_exclusive_group(required=True)
    scope.add_argument("--key", metavar="KEY_ID")
    scope.add_argument("--agent", help="all keys of this agent, whatever their team")
    scope.add_argument("--team", help="all keys of this team")


def _take_limits(parser: argparse.ArgumentParser) -> None:
    for name in Limits.__struct_fields__:
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=_amount, metavar="N", default=argparse.SUPPRESS,
            help="a number, or none",
        )  # fmt: skip


def _amount(text: str) -> float | None:
    amount = None if text == "none" else float(text)
    if amount is not None and not 0 < amount < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0 or none, got {text!r}")
    return amount


def _limits_in(arguments: argparse.Namespace) -> dict[str, float | None]:
    given = vars(arguments)
    return {name: given[name] for name in Limits.__struct_fields__ if name in given}


def _scope_in(arguments: argparse.Namespace) -> Scope:
    if arguments.key is not None:
        return Scope("key", arguments.key)
    if arguments.agent is not None:
        return Scope("agent", arguments.agent)
    return Scope("team", arguments.team)


def _add(arguments: argparse.Namespace) -> int:
    database = _database(arguments)
    secret, key = add_key(
        database,
        team=arguments.team,
        project=arguments.project,
        agent=arguments.agent,
        label=arguments.label or load_settings(_home(arguments)).gateway.label,
        exact=arguments.exact,
        metrics=arguments.metrics,
        actor=_actor(),
    )
    if changes := _limits_in(arguments):
        set_limits(database, Scope("key", key.key_id), changes, actor=_actor())
    value = key_value(key, list_limits(database), list_pauses(database))
    _print(arguments, {"key": secret, **value}, f"{secret}\n  {key_line(value)}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    database = _database(arguments)
    limits, stopped = list_limits(database), list_pauses(database)
    found = [key_value(key, limits, stopped) for key in list_keys(database)]
    text = "\n".join(map(key_line, found)) or "no keys yet: espalier key add"
    _print(arguments, {"keys": found}, text)
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    revoke_key(_database(arguments), arguments.key_id, actor=_actor())
    _print(arguments, {"key_id": arguments.key_id, "revoked": True}, f"{arguments.key_id} revoked")
    return 0


def _set(arguments: argparse.Namespace) -> int:
    scope, changes = _scope_in(arguments), _limits_in(arguments)
    if not changes:
        raise UsageError(
            "expected a limit, got none",
            next_step=f"espalier key set --{scope.kind} {scope.name} --tokens-per-day N",
        )
    now = limits_value(scope, set_limits(_database(arguments), scope, changes, actor=_actor()))
    told = _tell_gateway(_home(arguments))
    _print(arguments, {**now, "told": told}, f"{scope}: {limits_line(now)}")
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    made = pause(
        _database(arguments),
        _scope_in(arguments),
        killed=arguments.killed,
        actor=_actor(),
        reason=arguments.reason,
    )
    shown = {**pause_value(made), "told": _tell_gateway(_home(arguments))}
    _print(arguments, shown, made.message)
    return 0


def _resume(arguments: argparse.Namespace) -> int:
    scope = _scope_in(arguments)
    resume(_database(arguments), scope, actor=_actor(), reason=arguments.reason)
    shown = {**scope._asdict(), "told": _tell_gateway(_home(arguments))}
    _print(arguments, shown, f"{scope} may ask again")
    return 0


def _usage(arguments: argparse.Namespace) -> int:
    value = usage_value(_database(arguments), int(time.time() // DAY_S))
    _print(arguments, value, usage_lines(value))
    return 0


def _tell_gateway(home: Home) -> bool:
    """Have the gateway read keys, limits and pauses now; one that is down reads them at start."""
    connection = http.client.HTTPConnection("serving", timeout=_TELL_TIMEOUT_S)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(_TELL_TIMEOUT_S)
    try:
        connection.sock.connect(str(home.socket("serving")))
        connection.request("POST", "/keys/reload")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _actor() -> str:
    return f"os:{getpass.getuser()}"


def _home(arguments: argparse.Namespace) -> Home:
    return Home.existing(arguments.home)


def _database(arguments: argparse.Namespace) -> Database:
    home = _home(arguments)
    home.create()
    return Database.open(home.database)


def _print(arguments: argparse.Namespace, value: dict[str, Any], text: str) -> None:
    print(json.dumps(value) if arguments.json else text)
