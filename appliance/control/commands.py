"""What each command of the control plane does.

Reading is open to whoever may read the home folder; every act goes to the API, signed in.
"""

import argparse
import getpass
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import sqlalchemy as sa

from appliance.control import law as articles
from appliance.control import local_http, people, programs, show, supervisor
from appliance.control.doctor import examine
from appliance.control.review import review as review_of
from appliance.control.review import summary
from appliance.control.rounds import Rounds
from appliance.control.steps import Ground, serving_now
from appliance.core import audit
from appliance.core.database import Database
from appliance.core.digests import hash_key
from appliance.core.errors import ConflictError, ForbiddenError, NotFoundError, UsageError
from appliance.core.files import publish
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.settings import fields_of, load_settings, resolve
from appliance.core.tables import keys
from policies.access import Act
from policies.lifecycle import State

_DOWN_TIMEOUT_S = 60.0
_POLL_S = 0.2


def up(arguments: argparse.Namespace) -> int:
    """Start the appliance; its first agent key is made and kept with it."""
    home = Home.find()
    settings = load_settings(home)
    if supervisor.running(home) is not None:
        raise ConflictError(
            f"the appliance of {home.root} is already up", next_step="espalier status"
        )
    home.create()
    _require_base(home, settings.engine.base)
    ports = supervisor.take_ports(settings)
    Database.open(home.database).close()
    key = _agent_key(home)
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
    home = Home.find()
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
    home = Home.find()
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
    settings, origin = resolve(Home.find())
    shown = {
        name: {"value": value, "from": origin.get(name, "default")}
        for name, value in fields_of(settings).items()
    }
    show.emit(shown, arguments.json, show.settings)
    return 0


def user(arguments: argparse.Namespace) -> int:
    """Add, list or change people. The first is an admin, made by whoever owns the home."""
    home = Home.find()
    if arguments.what == "list":
        found = people.everybody(_ground(home).database)
        show.emit(msgspec.to_builtins(found), arguments.json, show.people)
        return 0
    if arguments.new_name is None:
        raise UsageError(f"espalier user {arguments.what} NAME")
    made = _user_add(home, arguments) if arguments.what == "add" else _user_set(home, arguments)
    show.emit(made, arguments.json, lambda v: print(f"{v['name']} is {v['role']}"))
    return 0


def _user_add(home: Home, arguments: argparse.Namespace) -> dict[str, Any]:
    home.create()
    database = Database.open(home.database)
    actor, role, at = f"os:{getpass.getuser()}", arguments.role or "", time.time()
    if people.count(database) == 0:
        if role != "admin":
            raise UsageError(
                f"the first person is an admin, got role {role!r}",
                next_step=f"espalier user add {arguments.new_name} --role admin",
            )
    else:
        actor, passphrase = _credential(arguments)
        signed = people.Passphrases(database).sign_in(name=actor, passphrase=passphrase, at=at)
        signed.require(Act.MANAGE_PEOPLE)
    people.add(
        database,
        name=arguments.new_name,
        role=role,
        label=arguments.label or "internal",
        passphrase=_new_passphrase(arguments),
        actor=actor,
        at=at,
    )
    return {"name": arguments.new_name, "role": role}


def _user_set(home: Home, arguments: argparse.Namespace) -> Any:
    """Like the console: another admin's work; one's own passphrase is one's own."""
    body = {
        "role": arguments.role,
        "label": arguments.label,
        "passphrase": _new_passphrase(arguments) if _asks_for_new(arguments) else None,
        "ended": True if arguments.end else False if arguments.restore else None,
    }
    if arguments.new_name == (arguments.person or os.environ.get("ESPALIER_AS")):
        return _ask(home, arguments, "PUT", "/me/passphrase", {"passphrase": body["passphrase"]})
    route = f"/people/{quote(arguments.new_name, safe='')}"
    return _ask(home, arguments, "PATCH", route, body)


def _asks_for_new(arguments: argparse.Namespace) -> bool:
    return bool(arguments.new_passphrase_file or arguments.new_passphrase)


def law(arguments: argparse.Namespace) -> int:
    """Show the law in force, or change it as a signed-in person."""
    home = Home.find()
    if arguments.what == "show":
        entries = articles.in_force(Database.open(home.database))
        show.emit(msgspec.to_builtins(entries), arguments.json, show.law)
        return 0
    if arguments.what in ("accept", "decline"):
        made = _decide_proposal(home, arguments)
        show.emit(made, arguments.json, show.proposal_decided)
        return 0
    if arguments.kind is None or arguments.source is None:
        raise UsageError(
            f"espalier law {arguments.what} KIND {'FILE' if arguments.what == 'set' else 'NAME'}"
        )
    if arguments.what == "repeal":
        made = _ask(home, arguments, "DELETE", _article(arguments.kind, arguments.source))
    else:
        made = _set_law(home, arguments)
    show.emit(made, arguments.json, show.law_change)
    return 0


def _decide_proposal(home: Home, arguments: argparse.Namespace) -> Any:
    """Accept or decline somebody else's change of a protected suite."""
    number = arguments.kind or ""
    if not number.isdecimal():
        raise UsageError(f"espalier law {arguments.what} NUMBER")
    body = {"reason": arguments.reason} if arguments.what == "decline" else None
    return _ask(home, arguments, "POST", f"/proposals/{number}/{arguments.what}", body)


def round_run(arguments: argparse.Namespace) -> int:
    """Start a round; with --wait, until it has a verdict or waits for people.

    Exit code 1 where it failed; a verdict, whatever it is, is an answer.
    """
    home = Home.find()
    body = {"trajectories": arguments.trajectories, "idle_s": arguments.idle_s}
    made = _ask(home, arguments, "POST", "/rounds", body)
    if not arguments.wait:
        show.emit(made, arguments.json, show.round_line)
        return 0
    ground = _ground(home)
    rounds = Rounds(ground.database)
    progress = show.Progress(quiet=arguments.json)
    while True:
        round_ = rounds.get(made["round"])
        shown = summary(ground, round_)
        progress.show(shown)
        if round_.state.terminal or round_.state is State.AWAITING_APPROVAL:
            break
        if supervisor.running(home) is None:
            raise NotFoundError(
                "the appliance went down", next_step="espalier up; the round goes on"
            )
        time.sleep(_POLL_S)
    progress.end()
    show.emit(shown, arguments.json, show.round_line)
    return 1 if round_.state is State.FAILED else 0


def rounds(arguments: argparse.Namespace) -> int:
    """Every round."""
    ground = _ground(Home.find())
    shown = [summary(ground, r) for r in Rounds(ground.database).all()]
    show.emit(shown, arguments.json, show.rounds)
    return 0


def review(arguments: argparse.Namespace) -> int:
    """One round, in full."""
    ground = _ground(Home.find())
    shown = review_of(ground, Rounds(ground.database).get(arguments.round))
    show.emit(shown, arguments.json, show.review)
    return 0


def decide(arguments: argparse.Namespace) -> int:
    """Approve, request changes or reject, as a signed-in person."""
    decision = arguments.verb.replace("-", "_")
    body = {"decision": decision, "comment": arguments.comment}
    if arguments.adapter:
        body["adapter"] = arguments.adapter
    home = Home.find()
    shown = _ask(home, arguments, "POST", f"/rounds/{arguments.round}/decision", body)
    show.emit(shown, arguments.json, show.decided)
    return 0


def change_round(arguments: argparse.Namespace) -> int:
    """Cancel a round, or make its candidate again."""
    route = f"/rounds/{arguments.round}/{arguments.verb}"
    shown = _ask(Home.find(), arguments, "POST", route, {"reason": arguments.reason})
    show.emit(shown, arguments.json, show.round_line)
    return 0


def release(arguments: argparse.Namespace) -> int:
    """Release again what was approved."""
    shown = _ask(Home.find(), arguments, "POST", f"/rounds/{arguments.round}/release", {})
    show.emit(shown, arguments.json, show.journal_entry)
    return 0


def undo(arguments: argparse.Namespace) -> int:
    """Roll back, or kill."""
    body = {"reason": arguments.reason}
    shown = _ask(Home.find(), arguments, "POST", f"/{arguments.verb}", body)
    show.emit(shown, arguments.json, show.journal_entry)
    return 0


def log(arguments: argparse.Namespace) -> int:
    """The audit log."""
    with _ground(Home.find()).database.read() as connection:
        audit.verify(connection)
        entries = audit.entries(connection, after=arguments.after, limit=100_000)
    show.emit(msgspec.to_builtins(entries), arguments.json, show.audit)
    return 0


def _ground(home: Home) -> Ground:
    if not home.database.exists():
        raise NotFoundError(f"{home.root} holds no appliance", next_step="espalier up")
    database = Database.open(home.database)
    return Ground(home, load_settings(home), database, ObjectStore(home.objects))


def _status(home: Home, state: dict[str, Any]) -> dict[str, Any]:
    ground = _ground(home)
    past = Rounds(ground.database).all()
    under_way = [r for r in past if not r.state.terminal]
    return {
        "alias": ground.settings.gateway.alias,
        "serving": serving_now(ground),
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


def _url(state: dict[str, Any]) -> str:
    return f"http://{_netloc(state['gateway'])}/v1"


def _netloc(address: list[Any]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _ask(
    home: Home, arguments: argparse.Namespace, method: str, route: str, body: Any = None
) -> Any:
    state = supervisor.running(home)
    if state is None:
        raise NotFoundError(f"no appliance runs in {home.root}", next_step="espalier up")
    credential = _credential(arguments)
    return local_http.over_port(
        state["control"], method, f"/api{route}", body, credential=credential, timeout_s=310.0
    )


def _credential(arguments: argparse.Namespace) -> tuple[str, str]:
    name = arguments.person or os.environ.get("ESPALIER_AS")
    if not name:
        raise ForbiddenError("who are you?", next_step="--as NAME, or ESPALIER_AS")
    if arguments.passphrase_file:
        return name, _read_secret(arguments.passphrase_file)
    if passphrase := os.environ.get("ESPALIER_PASSPHRASE"):
        return name, passphrase
    return name, _ask_unseen(
        f"passphrase of {name}: ", "--passphrase-file FILE, or $ESPALIER_PASSPHRASE"
    )


def _new_passphrase(arguments: argparse.Namespace) -> str:
    if arguments.new_passphrase_file:
        return _read_secret(arguments.new_passphrase_file)
    instead = "--new-passphrase-file FILE"
    first = _ask_unseen(f"a passphrase for {arguments.new_name}: ", instead)
    if first != _ask_unseen("again: ", instead):
        raise UsageError("the two passphrases differ", next_step="type the same one twice")
    return first


def _ask_unseen(prompt: str, instead: str) -> str:
    """Ask on the terminal; never read from elsewhere, where what is typed would be seen."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)
            return getpass.getpass(prompt)
    except (EOFError, getpass.GetPassWarning) as error:
        raise UsageError(
            "there is no terminal to ask for the passphrase on",
            next_step=instead,
        ) from error


def _read_secret(path: str) -> str:
    try:
        return Path(path).read_text().rstrip("\n")
    except OSError as error:
        raise UsageError(f"cannot read the passphrase file {path}: {error.strerror}") from error


def _set_law(home: Home, arguments: argparse.Namespace) -> Any:
    path = Path(arguments.source)
    if arguments.kind == "schedule" and not path.exists():
        text, name = arguments.source, "schedule"
    else:
        try:
            text, name = path.read_text(), path.stem
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"cannot read {path}: {error}", next_step="give a text file that exists"
            ) from error
    if arguments.kind != "suite":
        name = arguments.kind
    route = _article(arguments.kind, arguments.name or name)
    return _ask(home, arguments, "PUT", route, {"text": text, "reason": arguments.reason})


def _article(kind: str, name: str) -> str:
    return f"/law/{kind}/{quote(name, safe='')}"


def _require_base(home: Home, name: str) -> None:
    made = programs.run_now("adapter_training", "base", "list", "--json", home=home)
    known = [base["name"] for base in made["bases"]] + [base["base"] for base in made["bases"]]
    if name not in known:
        raise NotFoundError(
            f"no base named {name!r} is registered in {home.root}",
            next_step="espalier base make-tiny, or espalier base fetch smollm2 and "
            'set [engine] base = "smollm2"',
        )


def _agent_key(home: Home) -> str:
    """The key that `up` prints, readable by the owner of the home alone; a new one if revoked."""
    path = home.secrets / "agent.key"
    if not path.exists() or _is_revoked(home, path.read_text()):
        made = programs.run_now(
            "serving", "key", "add", "--team", "default", "--project", "default",
            "--agent", "default", "--json", home=home,
        )  # fmt: skip
        publish(path, made["key"].encode(), mode=0o600)
    return path.read_text()


def _is_revoked(home: Home, secret: str) -> bool:
    query = sa.select(keys.c.revoked_at).where(keys.c.key_hash == hash_key(secret))
    with Database.open(home.database).read() as connection:
        return connection.scalar(query) is not None
