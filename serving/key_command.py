"""``espalier key``: make, list, revoke; limit, pause and kill what asks."""

import argparse
import getpass
import http.client
import json
import socket
import time
from typing import Any

import msgspec

from appliance.core.database import Database
from appliance.core.errors import UsageError
from appliance.core.home import Home
from appliance.core.settings import load_settings
from serving.keys import Key, Scope, add_key, list_keys, revoke_key
from serving.limits import Limits, list_limits, set_limits
from serving.pauses import Pause, list_pauses, pause, resume
from serving.usage import Spent, load

_DAY_S = 86_400
_TELL_TIMEOUT_S = 5.0


def add_to(commands: Any, common: argparse.ArgumentParser) -> None:
    """Put ``key`` and what it does beside the other commands."""
    keys = commands.add_parser("key", help="agents' keys").add_subparsers(required=True)
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
        "usage", parents=[common], help="limits, pauses, and what was used today"
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
    if arguments.key:
        return Scope("key", arguments.key)
    return Scope("agent", arguments.agent) if arguments.agent else Scope("team", arguments.team)


def _add(arguments: argparse.Namespace) -> int:
    home = Home.find(arguments.home)
    database = _database(home)
    secret, key = add_key(
        database,
        team=arguments.team,
        project=arguments.project,
        agent=arguments.agent,
        label=arguments.label or load_settings(home).gateway.label,
        exact=arguments.exact,
        metrics=arguments.metrics,
        actor=_actor(),
    )
    if changes := _limits_in(arguments):
        set_limits(database, Scope("key", key.key_id), changes, actor=_actor())
    _print(arguments, {"key": secret, **msgspec.to_builtins(key)}, f"{secret}\n  {_line(key)}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    found = list_keys(_database(Home.find(arguments.home)))
    text = "\n".join(map(_line, found)) or "no keys yet: espalier key add"
    _print(arguments, {"keys": [msgspec.to_builtins(key) for key in found]}, text)
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    revoke_key(_database(Home.find(arguments.home)), arguments.key_id, actor=_actor())
    _print(arguments, {"key_id": arguments.key_id, "revoked": True}, f"{arguments.key_id} revoked")
    return 0


def _set(arguments: argparse.Namespace) -> int:
    scope, changes = _scope_in(arguments), _limits_in(arguments)
    if not changes:
        raise UsageError(
            "expected a limit, got none",
            next_step=f"espalier key set --{scope.kind} {scope.name} --tokens-per-day N",
        )
    home = Home.find(arguments.home)
    now = set_limits(_database(home), scope, changes, actor=_actor())
    shown = {**scope._asdict(), **msgspec.to_builtins(now), "told": _tell_gateway(home)}
    _print(arguments, shown, f"{scope}: {_limits_line(now)}")
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    home = Home.find(arguments.home)
    made = pause(
        _database(home),
        _scope_in(arguments),
        killed=arguments.killed,
        actor=_actor(),
        reason=arguments.reason,
    )
    shown = {**_shown(made), "told": _tell_gateway(home)}
    _print(arguments, shown, made.message)
    return 0


def _resume(arguments: argparse.Namespace) -> int:
    home, scope = Home.find(arguments.home), _scope_in(arguments)
    resume(_database(home), scope, actor=_actor(), reason=arguments.reason)
    shown = {**scope._asdict(), "told": _tell_gateway(home)}
    _print(arguments, shown, f"{scope} may ask again")
    return 0


def _usage(arguments: argparse.Namespace) -> int:
    database = _database(Home.find(arguments.home))
    today: dict[Scope, Spent] = {}
    for scopes, _, spent in load(database, since_day=int(time.time() // _DAY_S)):
        for scope in scopes:
            today.setdefault(scope, Spent()).add(spent)
    limits, stopped = list_limits(database), list_pauses(database)
    value = {
        "limits": [
            {**scope._asdict(), **msgspec.to_builtins(set_)} for scope, set_ in limits.items()
        ],
        "pauses": [_shown(one) for one in stopped],
        "today": [{**scope._asdict(), **msgspec.to_builtins(s)} for scope, s in today.items()],
    }
    lines = [
        *(one.message for one in stopped),
        *(f"{scope}: {_limits_line(set_)}" for scope, set_ in limits.items()),
        *(
            f"{scope}: today {spent.requests} requests, {spent.tokens} tokens, "
            f"{spent.units:g} units"
            for scope, spent in sorted(today.items())
        ),
    ]
    _print(arguments, value, "\n".join(lines) or "nothing is limited, paused or used today")
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


def _database(home: Home) -> Database:
    home.create()
    return Database.open(home.database)


def _print(arguments: argparse.Namespace, value: dict[str, Any], text: str) -> None:
    print(json.dumps(value) if arguments.json else text)


def _shown(stopped: Pause) -> dict[str, Any]:
    value: dict[str, Any] = msgspec.to_builtins(stopped)
    return {**stopped.scope._asdict(), **{n: v for n, v in value.items() if n != "scope"}}


def _limits_line(limits: Limits) -> str:
    found = msgspec.structs.asdict(limits).items()
    return (
        ", ".join(f"{n.replace('_', ' ')} {v:g}" for n, v in found if v is not None) or "no limit"
    )


def _line(key: Key) -> str:
    made = time.strftime("%Y-%m-%d", time.gmtime(key.created_at))
    state = "revoked" if key.revoked_at else "exact versions" if key.exact else "alias only"
    return f"{key.key_id}  {key.team}/{key.project}/{key.agent}  {key.label}  {state}  {made}"
