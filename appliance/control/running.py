"""Starting, ending and looking at the appliance of a home."""

import argparse
import os
import signal
import subprocess
import sys
import time
from typing import Any

import msgspec

from appliance.control import own_keys, programs, show, supervisor
from appliance.control.bases import require_base
from appliance.control.doctor import examine
from appliance.control.releasing import trying_now
from appliance.control.review import summary
from appliance.control.rounds import Rounds
from appliance.control.steps import Ground, serving_now
from appliance.control.stopped import stopped_now
from appliance.core.database import Database
from appliance.core.errors import ConflictError, NotFoundError
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.settings import fields_of, load_settings, resolve
from policies.lifecycle import State

_DOWN_TIMEOUT_S = 60.0
_POLL_S = 0.2


def up(arguments: argparse.Namespace) -> int:
    """Start the appliance; its first agent key is made and kept with it."""
    # A base is registered in a home, so it is there before its appliance.
    home = Home.existing()
    settings = load_settings(home)
    if supervisor.running(home) is not None:
        raise ConflictError(
            f"the appliance of {home.root} is already up", next_step="espalier status"
        )
    home.create()
    require_base(home, settings.engine.base)
    ports = supervisor.take_ports(settings)
    Database.open(home.database).close()
    key = own_keys.agent_key(home)
    child = subprocess.Popen(
        [sys.executable, "-m", "appliance.control", "supervise"],
        stdin=subprocess.DEVNULL,
        stdout=(home.process_logs / "supervisor.log").open("ab"),
        stderr=subprocess.STDOUT,
        env={**programs.environment(home, 0), **ports},
        start_new_session=not arguments.foreground,
    )
    try:
        state = supervisor.wait_until_ready(home, child)
    except BaseException:
        child.terminate()
        child.wait()
        raise
    shown = {**_status(home, state), "openai_base_url": _url(state), "openai_api_key": key}
    show.emit(shown, arguments.json, show.started)
    if arguments.foreground:
        return child.wait()
    return 0


def down(arguments: argparse.Namespace) -> int:
    """End the appliance; requests under way are finished first."""
    home = Home.existing()
    state = supervisor.running(home)
    if state is None:
        show.emit({"ended": False}, arguments.json, lambda _: print("the appliance is not running"))
        return 0
    os.kill(state["pid"], signal.SIGTERM)
    deadline = time.monotonic() + _DOWN_TIMEOUT_S
    while supervisor.running(home) is not None:
        if time.monotonic() > deadline:
            raise ConflictError(f"the supervisor (pid {state['pid']}) does not end")
        time.sleep(_POLL_S)
    show.emit({"ended": True}, arguments.json, lambda _: print("ended"))
    return 0


def status(arguments: argparse.Namespace) -> int:
    """What is served, what runs, what waits."""
    home = Home.existing()
    state = supervisor.running(home)
    if state is None:
        raise NotFoundError(f"no appliance runs in {home.root}", next_step="espalier up")
    show.emit(_status(home, state), arguments.json, show.status)
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """Every check; exit code 1 where one is not ok."""
    findings = list(examine(Home.find()))
    shown = [{"name": f.name, "ok": f.ok, "detail": f.detail, "mend": f.mend} for f in findings]
    show.emit(shown, arguments.json, show.findings)
    return 0 if all(f.ok for f in findings) else 1


def config(arguments: argparse.Namespace) -> int:
    """Every setting and its origin."""
    settings, origin = resolve(Home.existing())
    shown = {
        name: {"value": value, "from": origin.get(name, "default")}
        for name, value in fields_of(settings).items()
    }
    show.emit(shown, arguments.json, show.settings)
    return 0


def ground_of(home: Home) -> Ground:
    """What a home holds, up or down.

    Raises:
        NotFoundError: no appliance has ever been there.
    """
    if not home.database.exists():
        raise NotFoundError(f"{home.root} holds no appliance", next_step="espalier up")
    database = Database.open(home.database)
    return Ground(home, load_settings(home), database, ObjectStore(home.objects))


def _status(home: Home, state: dict[str, Any]) -> dict[str, Any]:
    ground = ground_of(home)
    past = Rounds(ground.database).all()
    under_way = [r for r in past if not r.state.terminal]
    gateway = ground.settings.gateway
    return {
        **_meaning(ground, gateway.alias),
        "team_aliases": [
            {**_meaning(ground, alias), "team": team}
            for alias, team in gateway.team_aliases.items()
        ],
        "stopped": msgspec.to_builtins(stopped_now(ground.database)),
        "under_way": [summary(ground, r) for r in under_way],
        "gateway": _url(state),
        "control": f"http://{_netloc(state['control'])}",
        "waiting_for_approval": [r.round for r in past if r.state is State.AWAITING_APPROVAL],
        "rounds": len(past),
        "parts": [
            {
                **part,
                "healthy": (answer := supervisor.health(home, part["name"])) is not None,
                "memory_mib": supervisor.memory_mib(part["pid"]),
                "says": answer,
            }
            for part in state["parts"]
        ],
    }


def _meaning(ground: Ground, alias: str) -> dict[str, Any]:
    trying = trying_now(ground.database, alias)
    return {
        "alias": alias,
        "serving": serving_now(ground, alias),
        "rollout": None if trying is None else msgspec.to_builtins(trying),
    }


def _url(state: dict[str, Any]) -> str:
    return f"http://{_netloc(state['gateway'])}/v1"


def _netloc(address: list[Any]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
