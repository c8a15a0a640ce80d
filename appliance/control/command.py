"""The `espalier` command. Programs other than the control plane are started by command.

Nothing heavy is imported before it is known what is asked for: `espalier --help` is instant.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from appliance.core.errors import EspalierError, UsageError

# What another program does: our command → (its module, its own words).
PROGRAMS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "base": ("adapter_training", ("base",), "make, add, fetch or list base models"),
    "serve": ("appliance.engine.vllm", ("serve",), "vllm: print or run vLLM's command"),
    "key": ("serving", ("key",), "agents' keys: make, limit, pause, kill"),
    "adapter": ("serving", ("adapter",), "verify an adapter directory"),
    "import": ("collectors", ("import",), "read trajectories from files"),
    "tail": ("collectors", ("tail",), "watch trajectories as they arrive"),
    "curate": ("collectors", ("curate",), "seal a dataset, and say what was left out"),
    "evaluate": ("appliance.evaluation", ("evaluate",), "run a suite on an adapter"),
    "agent": ("appliance.agent", (), "run agents on tasks, as users would"),
    "demo": ("appliance.demo", (), "a company in a box: the whole loop, on real input"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is the error's own (see core/errors.py)."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        home, words = _take_home(words)
        if home is not None:
            os.environ["ESPALIER_HOME"] = os.path.abspath(os.path.expanduser(home))  # noqa: PTH100, PTH111 # pathlib costs start-up time
        if words and words[0] in PROGRAMS:
            return _become(*PROGRAMS[words[0]][:2], words[1:])
        arguments = _parser().parse_args(words)
        return _run(arguments)
    except EspalierError as error:
        print(f"espalier: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0


def _take_home(words: list[str]) -> tuple[str | None, list[str]]:
    """`--home DIR` may stand anywhere, also behind a program's name."""
    for index, word in enumerate(words):
        if word.startswith("--home="):
            return word.removeprefix("--home="), words[:index] + words[index + 1 :]
        if word == "--home":
            if index + 1 == len(words):
                raise UsageError("--home needs a folder")
            return words[index + 1], words[:index] + words[index + 2 :]
    return None, words


def _become(module: str, verb: tuple[str, ...], words: list[str]) -> int:
    """Replace this process by another program of ours."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *verb, *words])  # noqa: S606 # ours


def _run(arguments: argparse.Namespace) -> int:
    module, name = arguments.act.split(".")
    act = getattr(import_module(f"appliance.control.{module}"), name)
    code: int = act(arguments)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="espalier",
        description="An appliance that grows a company's model from what its agents did.",
        epilog="every command takes --help, and --home DIR (or $ESPALIER_HOME)",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    def verb(name: str, act: str, what: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=what, description=what)
        made.set_defaults(act=act)
        made.add_argument("--json", action="store_true", help="one JSON value instead of text")
        return made

    def person(made: argparse.ArgumentParser) -> None:
        made.add_argument("--as", dest="person", help="your name (or $ESPALIER_AS)")
        made.add_argument("--passphrase-file", help="else $ESPALIER_PASSPHRASE, else asked for")

    up = verb("up", "running.up", "start the appliance and print what an agent needs")
    up.add_argument("--foreground", action="store_true", help="stay, and end it with Ctrl-C")
    verb("down", "running.down", "end the appliance")
    verb("status", "running.status", "what is served, what runs, what waits for you")
    verb("doctor", "running.doctor", "what is wrong, and how to mend it")

    config = verb("config", "running.config", "every setting, and where its value came from")
    config.add_argument("what", choices=["show"])

    user = verb("user", "commands.user", "people: add, list, set (role, label, passphrase, access)")
    user.add_argument("what", choices=["add", "list", "set"])
    user.add_argument("new_name", metavar="NAME", nargs="?")
    user.add_argument("--role", help="viewer, operator, approver or admin")
    user.add_argument("--label", help="the highest label that the person sees (default: internal)")
    user.add_argument("--new-passphrase", action="store_true", help="ask for a new one (set)")
    user.add_argument("--new-passphrase-file", help="read it from there instead")
    user.add_argument("--end", action="store_true", help="end the person's access (set)")
    user.add_argument("--restore", action="store_true", help="let the person sign in again (set)")
    person(user)

    law = verb("law", "commands.law", "recipe, gates, suites and schedule in force")
    law.add_argument("what", choices=["show", "set", "repeal", "accept", "decline"])
    law.add_argument(
        "kind", nargs="?", help="recipe, gates, suite or schedule; a proposal's number for accept"
    )
    law.add_argument("source", nargs="?", help="a file; for repeal, the article's name")
    law.add_argument("--reason", default="", help="why, for whoever accepts a protected suite")
    law.add_argument("--name", help="the article's name (default: the file's)")
    person(law)

    made = verb("round", "commands.round_run", "start a round now")
    made.add_argument("what", choices=["run"])
    made.add_argument("--trajectories", choices=["new", "all"], default="new")
    made.add_argument("--idle-s", type=float, help="seal what has been quiet for so long")
    made.add_argument("--wait", action="store_true", help="until a verdict, or until people decide")
    person(made)

    verb("rounds", "commands.rounds", "every round and its verdict")
    review = verb("review", "commands.review", "what a round made, and what its gates say")
    review.add_argument("round", type=int)
    for name, what in (
        ("approve", "sign for a round's adapter"),
        ("request-changes", "hold its release until you approve, or it is made again"),
        ("reject", "say no to it"),
    ):
        decision = verb(name, "commands.decide", what)
        decision.add_argument("round", type=int)
        decision.add_argument("--comment", default="")
        decision.add_argument("--adapter", help="refuse unless the round made exactly this one")
        person(decision)
    for name, what in (
        ("cancel", "end a round before its verdict"),
        ("revise", "make a waiting candidate again under the law now in force"),
    ):
        change = verb(name, "commands.change_round", what)
        change.add_argument("round", type=int)
        change.add_argument("--reason", required=True)
        person(change)
    release = verb(
        "release", "commands.release", "make the alias mean a released round's adapter again"
    )
    release.add_argument("round", type=int)
    release.add_argument("--alias", default="", help="a team's alias, instead of the own one")
    person(release)
    for name, what in (
        ("rollback", "what is tried out is taken away; else the adapter before serves again"),
        ("kill", "the alias means the base: no adapter serves"),
    ):
        undo = verb(name, "commands.undo", what)
        undo.add_argument("--reason", required=True)
        undo.add_argument("--alias", default="", help="a team's alias, instead of the own one")
        person(undo)
    log = verb("log", "commands.log", "the audit log, its chain verified")
    log.add_argument("--after", type=int, default=0, help="entries after this sequence number")
    # Known by name alone, for the list of commands: `main` starts them before it parses.
    for name, (_, _, what) in PROGRAMS.items():
        verbs.add_parser(name, help=what, add_help=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
