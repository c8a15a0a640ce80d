"""The command line of the collectors."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from appliance.core.errors import EspalierError, NotFoundError
from appliance.core.home import Home
from appliance.core.settings import load_settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    try:
        code: int = arguments.run(arguments)
        return code
    except EspalierError as error:
        print(f"espalier: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0


def _serve(arguments: argparse.Namespace) -> int:
    from collectors.service import serve

    home = Home.find(arguments.home)
    home.create()
    serve(home, load_settings(home))
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from collectors.importing.importer import Source
    from collectors.importing.report import show
    from collectors.importing.run import import_files

    home = Home.existing(arguments.home)
    settings = load_settings(home)
    source = Source(
        team=arguments.team,
        project=arguments.project,
        label=arguments.label or settings.gateway.label,
        outcome=arguments.outcome,
    )
    reports = import_files(home, settings, [Path(file) for file in arguments.files], source)
    if not arguments.json:
        print(show(reports))
    for report in reports:
        if report.error:
            print(f"espalier: {report.error}\n  next: {report.next_step}", file=sys.stderr)
    if arguments.json:
        print(json.dumps({"files": msgspec.to_builtins(reports)}))
    return 0 if all(report.clean for report in reports) else 2


def _tail(arguments: argparse.Namespace) -> int:
    from appliance.core.database import Database
    from collectors.tail import follow, latest, show

    home = Home.existing(arguments.home)
    if not home.database.exists():
        raise NotFoundError(f"nothing in {home.root} yet", next_step="espalier up")
    database = Database.open(home.database)
    write = (lambda line: msgspec.json.encode(line).decode()) if arguments.json else show
    shown = latest(database, arguments.count)
    for line in shown:
        print(write(line), flush=True)
    if not arguments.once:
        for line in follow(database, shown):
            print(write(line), flush=True)
    return 0


def _curate(arguments: argparse.Namespace) -> int:
    from collectors.curation.run import Order, curate, left_out, show

    home = Home.existing(arguments.home)
    made = curate(
        home,
        load_settings(home),
        Order(
            recipe=Path(arguments.recipe),
            base=arguments.base,
            trajectories="all" if arguments.all else arguments.trajectories,
            since=arguments.since,
            round=arguments.round,
            label=arguments.max_label,
            cap=arguments.cap,
            hold_out_share=arguments.hold_out_share,
        ),
    )
    if arguments.names:
        for name in left_out(home, made.dataset):
            print(name)
    if arguments.json:
        print(json.dumps(msgspec.to_builtins(made)))
    else:
        print(show(made))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m collectors", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    def verb(name: str, run: object, what: str) -> argparse.ArgumentParser:
        prog = None if name == "serve" else f"espalier {name}"
        made = verbs.add_parser(name, prog=prog, help=what, description=what)
        made.set_defaults(run=run)
        made.add_argument("--home", help="the folder with all state (or $ESPALIER_HOME)")
        return made

    verb("serve", _serve, "take events in until told to end")

    made = verb("import", _import, "read trajectories from files")
    made.add_argument("files", nargs="+", metavar="FILE")
    made.add_argument("--json", action="store_true", help="one line of JSON at the end")
    made.add_argument("--team", default="import")
    made.add_argument("--project", default="import")
    made.add_argument("--label", help="of the data (default: the gateway's)")
    made.add_argument(
        "--outcome", choices=["ok", "failed"], help="your word on how all of it turned out"
    )

    made = verb("tail", _tail, "watch trajectories as they arrive")
    made.add_argument("--json", action="store_true", help="one JSON object a line")
    made.add_argument("--once", action="store_true", help="show what is there and end")
    made.add_argument("-n", dest="count", type=int, default=10, help="how many to begin with")

    made = verb("curate", _curate, "seal a dataset, and say what was left out")
    made.add_argument("--recipe", required=True, metavar="FILE")
    made.add_argument("--base", help="name or digest (default: [engine] base)")
    made.add_argument("--trajectories", choices=["new", "all"], default="all")
    made.add_argument("--all", action="store_true", help="the same as --trajectories all")
    made.add_argument("--since", type=float, metavar="TIME", help="sealed at or after (UTC s)")
    made.add_argument("--round", type=int)
    made.add_argument("--max-label", help="leave out what is labelled above (default: gateway's)")
    made.add_argument("--cap", type=int, default=100_000, help="examples from one agent, at most")
    made.add_argument("--split", choices=["task"], default="task", help=argparse.SUPPRESS)
    made.add_argument(
        "--hold-out-share", type=float, default=0.0, help="tasks kept out, as a second dataset"
    )
    made.add_argument("--names", action="store_true", help="name everything that was left out")
    made.add_argument("--json", action="store_true", help="one line of JSON at the end")
    return parser
