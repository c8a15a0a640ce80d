"""What each command of the control plane does.

Reading is open to whoever may read the home folder; every act goes to the API, signed in.
"""

import argparse
import getpass
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from appliance.control import law as articles
from appliance.control import local_http, people, show, supervisor
from appliance.control.credentials import credential, new_passphrase
from appliance.control.review import review as review_of
from appliance.control.review import summary
from appliance.control.rounds import Rounds
from appliance.control.running import ground_of
from appliance.core import audit
from appliance.core.database import Database
from appliance.core.errors import NotFoundError, UsageError
from appliance.core.home import Home
from policies.access import Act
from policies.lifecycle import State

_POLL_S = 0.2


def user(arguments: argparse.Namespace) -> int:
    """Add, list or change people. The first is an admin, made by whoever owns the home."""
    home = Home.existing()
    if arguments.what == "list":
        found = people.everybody(ground_of(home).database)
        show.emit(msgspec.to_builtins(found), arguments.json, show.people)
        return 0
    if arguments.new_name is None:
        raise UsageError(
            f"espalier user {arguments.what} needs a name, got none",
            next_step=f"espalier user {arguments.what} NAME",
        )
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
        # Before anybody is asked for a passphrase.
        people.require_role(role)
        actor, passphrase = credential(arguments)
        signed = people.Passphrases(database).sign_in(name=actor, passphrase=passphrase, at=at)
        signed.require(Act.MANAGE_PEOPLE)
    people.add(
        database,
        name=arguments.new_name,
        role=role,
        label=arguments.label or "internal",
        passphrase=new_passphrase(arguments),
        actor=actor,
        at=at,
    )
    return {"name": arguments.new_name, "role": role}


def _user_set(home: Home, arguments: argparse.Namespace) -> Any:
    """Like the console: another admin's work; one's own passphrase is one's own."""
    body = {
        "role": arguments.role,
        "label": arguments.label,
        "passphrase": new_passphrase(arguments) if _asks_for_new(arguments) else None,
        "ended": True if arguments.end else False if arguments.restore else None,
    }
    if arguments.new_name == (arguments.person or os.environ.get("ESPALIER_AS")):
        if [name for name, value in body.items() if value is not None] != ["passphrase"]:
            raise UsageError(
                "of yourself you change the passphrase alone",
                next_step=f"espalier user set {arguments.new_name} --new-passphrase; for the rest, "
                "another admin",
            )
        return _ask(home, arguments, "PUT", "/me/passphrase", {"passphrase": body["passphrase"]})
    route = f"/people/{quote(arguments.new_name, safe='')}"
    return _ask(home, arguments, "PATCH", route, body)


def _asks_for_new(arguments: argparse.Namespace) -> bool:
    return bool(arguments.new_passphrase_file or arguments.new_passphrase)


def law(arguments: argparse.Namespace) -> int:
    """Show the law in force, or change it as a signed-in person."""
    home = Home.existing()
    if arguments.what == "show":
        entries = articles.in_force(Database.open(home.database))
        show.emit(msgspec.to_builtins(entries), arguments.json, show.law)
        return 0
    if arguments.what in ("accept", "decline"):
        made = _decide_proposal(home, arguments)
        show.emit(made, arguments.json, show.proposal_decided)
        return 0
    if arguments.kind is None or arguments.source is None:
        what = "FILE" if arguments.what == "set" else "NAME"
        raise UsageError(
            f"espalier law {arguments.what} needs a kind and a {what.lower()}",
            next_step=f"espalier law {arguments.what} recipe|gates|suite|schedule {what}",
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
        raise UsageError(
            f"expected a proposal's number, got {number!r}",
            next_step=f"espalier law {arguments.what} NUMBER; the console's suites list them",
        )
    body = {"reason": arguments.reason} if arguments.what == "decline" else None
    return _ask(home, arguments, "POST", f"/proposals/{number}/{arguments.what}", body)


def round_run(arguments: argparse.Namespace) -> int:
    """Start a round; with --wait, until it has a verdict or waits for people.

    Exit code 1 where it failed; a verdict, whatever it is, is an answer.
    """
    home = Home.existing()
    body = {"trajectories": arguments.trajectories, "idle_s": arguments.idle_s}
    made = _ask(home, arguments, "POST", "/rounds", body)
    if not arguments.wait:
        show.emit(made, arguments.json, show.round_line)
        return 0
    ground = ground_of(home)
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
    ground = ground_of(Home.existing())
    shown = [summary(ground, r) for r in Rounds(ground.database).all()]
    show.emit(shown, arguments.json, show.rounds)
    return 0


def review(arguments: argparse.Namespace) -> int:
    """One round, in full."""
    ground = ground_of(Home.existing())
    shown = review_of(ground, Rounds(ground.database).get(arguments.round))
    show.emit(shown, arguments.json, show.review)
    return 0


def decide(arguments: argparse.Namespace) -> int:
    """Approve, request changes or reject, as a signed-in person."""
    decision = arguments.verb.replace("-", "_")
    body = {"decision": decision, "comment": arguments.comment}
    if arguments.adapter:
        body["adapter"] = arguments.adapter
    home = Home.existing()
    shown = _ask(home, arguments, "POST", f"/rounds/{arguments.round}/decision", body)
    show.emit(shown, arguments.json, show.decided)
    return 0


def change_round(arguments: argparse.Namespace) -> int:
    """Cancel a round, or make its candidate again."""
    route = f"/rounds/{arguments.round}/{arguments.verb}"
    shown = _ask(Home.existing(), arguments, "POST", route, {"reason": arguments.reason})
    show.emit(shown, arguments.json, show.round_line)
    return 0


def release(arguments: argparse.Namespace) -> int:
    """Release again what was approved."""
    route = f"/rounds/{arguments.round}/release?alias={quote(arguments.alias)}"
    shown = _ask(Home.existing(), arguments, "POST", route, {})
    show.emit(shown, arguments.json, show.journal_entry)
    return 0


def undo(arguments: argparse.Namespace) -> int:
    """Roll back, or kill."""
    body = {"reason": arguments.reason}
    route = f"/{arguments.verb}?alias={quote(arguments.alias)}"
    shown = _ask(Home.existing(), arguments, "POST", route, body)
    show.emit(shown, arguments.json, show.journal_entry)
    return 0


def log(arguments: argparse.Namespace) -> int:
    """The audit log."""
    with ground_of(Home.existing()).database.read() as connection:
        audit.verify(connection)
        entries = audit.entries(connection, after=arguments.after, limit=100_000)
    show.emit(msgspec.to_builtins(entries), arguments.json, show.audit)
    return 0


def _ask(
    home: Home, arguments: argparse.Namespace, method: str, route: str, body: Any = None
) -> Any:
    state = supervisor.running(home)
    if state is None:
        raise NotFoundError(f"no appliance runs in {home.root}", next_step="espalier up")
    return local_http.over_port(
        state["control"],
        method,
        f"/api{route}",
        body,
        credential=credential(arguments),
        timeout_s=310.0,
    )


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
