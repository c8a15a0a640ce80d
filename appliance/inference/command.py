"""``python -m appliance.inference serve``."""

import argparse
import asyncio
import fcntl
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from appliance.core.errors import ConflictError, EspalierError
from appliance.core.home import Home
from appliance.core.settings import load_settings
from appliance.engine.bases import Registry

if TYPE_CHECKING:
    from appliance.inference.server import Server

_log = logging.getLogger("appliance.inference")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m appliance.inference", description=__doc__)
    commands = parser.add_subparsers(required=True)
    serve = commands.add_parser("serve", help="run the embedded engine on its private socket")
    serve.add_argument("--home", help="the appliance's folder (default: $ESPALIER_HOME)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        home = Home.find(options.home)
        with _alone(home):
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
    from appliance.inference.server import Server

    engine = load_engine(base, settings)
    threads = settle_threads(engine.model, settings.threads)
    server = Server(
        engine,
        home=home,
        base=base.digest,
        facts={
            "base_name": base.name,
            "device": str(engine.model.device),
            "dtype": settings.dtype,
            "threads": threads,
            "slots": settings.slots,
            "max_batch": settings.max_batch,
        },
    )
    _log.info("base %s, %d threads", base.name, threads)
    try:
        asyncio.run(_until_stopped(server, home))
    finally:
        home.socket("engine").unlink(missing_ok=True)


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    """Two engines would take each other's socket away."""
    home.run.mkdir(parents=True, exist_ok=True)
    with (home.run / "engine.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                f"an engine already serves {home.root}", next_step="espalier down stops it"
            ) from None
        yield


async def _until_stopped(server: "Server", home: Home) -> None:
    from appliance.inference.server import listen

    path = home.socket("engine")
    task = asyncio.ensure_future(
        listen(server, path, ready=lambda: _log.info("listening on %s", path))
    )
    loop = asyncio.get_running_loop()
    for stop in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(stop, task.cancel)
    # A failure to listen is raised; being stopped is not a failure.
    for failure in await asyncio.gather(task, return_exceptions=True):
        if isinstance(failure, Exception):
            raise failure
