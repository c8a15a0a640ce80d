"""``espalier serve vllm``: write vLLM's commands, or run them behind the engine's socket."""

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from appliance.core.errors import EspalierError, SettingsError
from appliance.core.home import Home
from appliance.core.settings import Settings, load_settings
from appliance.engine.bases import Base, Registry
from appliance.engine.socket_server import alone, serve
from appliance.engine.vllm.fleet import Fleet
from appliance.engine.vllm.launch import Launch, launch, slot_rank
from appliance.engine.vllm.member import Member
from appliance.engine.vllm.plain import plain_folder, write_plain_adapter

_GPU = Path("/dev/nvidiactl")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="espalier", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("serve", help="start the replicas and answer for them")
    run.add_argument("what", nargs="?", choices=["vllm"], default="vllm")
    run.add_argument("--home", help="the appliance's folder (default: $ESPALIER_HOME)")
    run.add_argument("--print", action="store_true", help="write the commands and start nothing")
    run.add_argument("--json", action="store_true", help="with --print: one JSON value")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        home = Home.existing(options.home)
        settings = load_settings(home)
        base = Registry(home).get(settings.engine.base)
        launches = _launches(home, settings, base)
        if options.print:
            _print(launches, as_json=options.json)
            return 0
        with alone(home):
            serve(_fleet(home, settings, base, launches), home.socket("engine"))
    except EspalierError as error:
        print(f"espalier: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _launches(home: Home, settings: Settings, base: Base) -> list[Launch]:
    engine = settings.engine
    if engine.device == "auto":
        device = "cuda" if _GPU.exists() else "cpu"
        engine = msgspec.structs.replace(engine, device=device)
    cache = home.root / "cache" / "vllm"
    plain = plain_folder(base, cache) if engine.device == "cpu" else None
    return [
        launch(
            base,
            engine,
            settings.vllm,
            python=str(home.root / settings.vllm.python),
            socket=home.socket(f"vllm-{index}"),
            cache=cache,
            plain=plain,
        )
        for index in range(settings.vllm.replicas)
    ]


def _fleet(home: Home, settings: Settings, base: Base, launches: Sequence[Launch]) -> Fleet:
    python = home.root / settings.vllm.python
    if settings.vllm.start and not python.exists():
        raise SettingsError(
            f"[vllm] python: there is no {python}",
            next_step="docs/serving.md says how to install vLLM beside the appliance",
        )
    for plain in {one.plain for one in launches if one.plain is not None}:
        write_plain_adapter(base, plain)
    log = home.process_logs if settings.vllm.start else None
    return Fleet(
        [
            Member(index, one, log and log / f"vllm-{index}.log")
            for index, one in enumerate(launches)
        ],
        home=home,
        base=base,
        slots=settings.engine.slots,
        context_length=settings.vllm.context_length or base.context_length,
        max_rank=slot_rank(settings.vllm.max_rank),
        dtype=settings.engine.dtype,
        facts={
            "kind": "vllm",
            "base_name": base.name,
            "dtype": settings.engine.dtype,
            "slots": settings.engine.slots,
            "max_batch": settings.engine.max_batch,
            "logprobs": "processed",
        },
    )


def _print(launches: Sequence[Launch], *, as_json: bool) -> None:
    if as_json:
        value = [{"command": one.command, "environment": one.environment} for one in launches]
        print(json.dumps(value))
        return
    for one in launches:
        pairs = [f"{name}={shlex.quote(value)}" for name, value in one.environment.items()]
        print(" \\\n  ".join([*pairs, shlex.join(one.command)]))
