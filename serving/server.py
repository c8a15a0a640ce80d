"""The gateway's process: puts the parts together once, and runs both APIs on one event loop."""

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
import uvloop
from starlette.types import ASGIApp

from appliance.core.database import Database
from appliance.core.errors import ConflictError, EspalierError, UsageError
from appliance.core.home import Home
from appliance.core.settings import Settings
from appliance.engine.bases import Registry
from appliance.engine.client import AsyncEngine
from appliance.engine.template import Template
from appliance.ingest import Ingest
from serving.admin import build_admin
from serving.admission import Admission
from serving.aliases import Aliases
from serving.app import build_app
from serving.attribution import Attribution
from serving.connections import IDLE_S, Connection, allow_many_files
from serving.gateway import Gateway
from serving.keys import KeyRing
from serving.metrics import Metrics
from serving.pauses import Pauses
from serving.quota import Quota
from serving.version_names import VersionNames
from serving.versions import HOLDER, Versions
from serving.vetting import Vetting

_LOOK_AGAIN_S = 1.0
_log = logging.getLogger("espalier.serving")


class _Server(uvicorn.Server):
    """One of two servers in a process: signals are the process's business."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(home: Home, settings: Settings) -> None:
    """Run until SIGTERM or SIGINT, then let answers under way end.

    Raises:
        ConflictError: the port is in use.
        NotFoundError: the base is not registered.
    """
    allow_many_files()
    listener = _listen(settings.gateway.host, settings.gateway.port)
    uvloop.run(_serve(home, settings, listener))


async def _serve(home: Home, settings: Settings, listener: socket.socket) -> None:
    base = Registry(home).get(settings.engine.base)
    database = Database.open(home.database)
    ingest = Ingest(home, settings, collector="gateway")
    async with AsyncEngine(home.socket("engine")) as engine:
        versions = Versions(engine)
        admission = Admission(database, versions, Vetting(home, settings, database, engine, base))
        gateway = Gateway(
            settings=settings,
            base=base,
            template=Template.load(base.path),
            engine=engine,
            versions=versions,
            aliases=Aliases(settings, database, engine, versions, admission),
            admission=admission,
            keys=KeyRing(database),
            pauses=Pauses(database),
            quota=Quota(database, settings.prices),
            metrics=Metrics(VersionNames(database, versions), Attribution(database)),
            ingest=ingest,
        )
        gateway.metrics.watch(gateway)
        host, port = listener.getsockname()[:2]
        public = _server(build_app(gateway), settings)
        admin = _server(build_admin(gateway, (host, port)), settings)
        private = _listen_privately(home.socket("serving"))
        _stop_on_signals(public, admin)
        # What stands now stays: the collector need not look at it again in the middle of a request.
        gc.collect()
        gc.freeze()
        _log.info("gateway on http://%s:%d/v1", host, port)
        rules = asyncio.create_task(_keep_rules(gateway))
        upkeep = asyncio.create_task(_upkeep(gateway))
        rollouts = asyncio.create_task(gateway.aliases.run())
        try:
            await asyncio.gather(public.serve(sockets=[listener]), admin.serve(sockets=[private]))
        finally:
            upkeep.cancel()
            rollouts.cancel()
            rules.cancel()
            await gateway.quota.save()
            await asyncio.to_thread(ingest.close)
            database.close()


async def _keep_rules(gateway: Gateway) -> None:
    """Once a second, whatever the engine does: who may ask, and what was used."""
    while True:
        try:
            await gateway.reload()
            await gateway.quota.save()
        except Exception:
            _log.exception("keys, limits and pauses stay as they were")
        await asyncio.sleep(_LOOK_AGAIN_S)


async def _upkeep(gateway: Gateway) -> None:
    """Once a second: adapters as the journal has them."""
    fresh = True
    while True:
        try:
            health = await gateway.engine.health()
            if health.base != gateway.base.digest:
                raise UsageError(
                    f"the engine serves another base than {gateway.base.name}",
                    next_step="espalier down, then espalier up",
                )
            limit = int(health.capabilities.get("context_length", gateway.base.context_length))
            gateway.context_length = min(limit, gateway.base.context_length)
            if fresh:
                # What an earlier gateway process held, and did not live to give back.
                await gateway.engine.release(None, HOLDER)
                fresh = False
            await gateway.aliases.follow()
            # Asked again: what was just loaded is not in what it said before.
            await gateway.versions.restore(await gateway.engine.health())
        except EspalierError as error:
            gateway.releases.note(error)
            _log.warning("%s", error.message)
        except Exception:
            _log.exception("upkeep failed")
        await asyncio.sleep(_LOOK_AGAIN_S if gateway.releases.ready else _LOOK_AGAIN_S / 5)


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit it. asyncio sets it only where the protocol was named; without it head
    # and body, sent one after the other, wait 40 ms for the client's acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConflictError(
            f"the gateway cannot listen on {host}:{port}: {error.strerror}",
            next_step="set [gateway] port in espalier.toml; 0 takes a free one",
        ) from error
    return listener


def _listen_privately(path: Path) -> socket.socket:
    """A Unix socket that only its owner may open."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    return listener


def _server(app: ASGIApp, settings: Settings) -> _Server:
    config = uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        date_header=False,
        ws="none",
        backlog=1024,
        http=Connection,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=max(1, round(settings.gateway.drain_s)),
    )
    return _Server(config)


def _stop_on_signals(*servers: _Server) -> None:
    def stop() -> None:
        for server in servers:
            server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
