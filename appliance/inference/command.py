"""``python -m appliance.inference serve``."""

import argparse
import logging
import sys
from collections.abc import Sequence

from appliance.core.errors import EspalierError
from appliance.core.home import Home
from appliance.core.settings import load_settings
from appliance.engine.bases import Registry
from appliance.engine.socket_server import alone, serve

_log = logging.getLogger("appliance.inference")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m appliance.inference", description=__doc__)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("serve", help="run the embedded engine on its private socket")
    run.add_argument("--home", help="the appliance's folder (default: $ESPALIER_HOME)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        home = Home.find(options.home)
        with alone(home):
            _serve(home)
    except EspalierError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _serve(home: Home) -> None:
    settings = load_settings(home).engine
    base = Registry(home).get(settings.base)
    # Heavy, so only now: a wrong setting or base is told without it.
    from appliance.inference.loading import load_engine, settle_threads
    from appliance.inference.server import EmbeddedEngine

    loaded = load_engine(base, settings)
    threads = settle_threads(loaded.model, settings.threads)
    engine = EmbeddedEngine(
        loaded,
        home=home,
        base=base.digest,
        facts={
            "base_name": base.name,
            "device": str(loaded.model.device),
            "dtype": settings.dtype,
            "threads": threads,
            "slots": settings.slots,
            "max_batch": settings.max_batch,
        },
    )
    _log.info("base %s, %d threads", base.name, threads)
    serve(engine, home.socket("engine"))
