"""Any engine on its private socket: HTTP in, lines of JSON out. Wire types: wire.py."""

import asyncio
import fcntl
import logging
import os
import secrets
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
from aiohttp import web

from appliance.core.digests import parse_digest
from appliance.core.errors import ConflictError, EspalierError, NotFoundError, RecordError
from appliance.core.home import Home
from appliance.engine.port import EnginePort
from appliance.engine.quiet import Quiet
from appliance.engine.wire import Generate, Lease, Line, Score, describe

_BODY_MAX_BYTES = 256 << 20
_BACKLOG = 1024
"""A Unix socket refuses at once what does not fit here, so it must hold any burst."""

_log = logging.getLogger(__name__)

T = TypeVar("T")


@contextmanager
def alone(home: Home) -> Iterator[None]:
    """Hold the home's engine lock: two engines would take each other's socket away.

    Raises:
        ConflictError: another engine holds it.
    """
    home.run.mkdir(parents=True, exist_ok=True)
    with (home.run / "engine.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                f"an engine already serves {home.root}", next_step="espalier down stops it"
            ) from None
        yield


def serve(engine: EnginePort, path: Path) -> None:
    """Answer for `engine` on a socket that only its owner may open, until SIGTERM or SIGINT."""
    try:
        asyncio.run(_until_stopped(engine, path))
    finally:
        path.unlink(missing_ok=True)


async def _until_stopped(engine: EnginePort, path: Path) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    runner = await listen(engine, path)
    _log.info("listening on %s", path)
    try:
        await stopped.wait()
    finally:
        await runner.cleanup()


async def listen(engine: EnginePort, path: Path) -> web.AppRunner:
    """Start to answer; `cleanup` of what it returns ends that, and the engine."""
    runner = web.AppRunner(
        _application(engine), access_log=None, handler_cancellation=True, shutdown_timeout=1.0
    )
    await runner.setup()
    before = os.umask(0o177)
    try:
        await web.UnixSite(runner, str(path), backlog=_BACKLOG).start()
    except BaseException:
        await runner.cleanup()
        raise
    finally:
        os.umask(before)
    return runner


def _application(engine: EnginePort) -> web.Application:
    quiet = Quiet()
    incarnation = secrets.token_hex(8)

    async def prepare(request: web.Request) -> web.Response:
        lease = await _body(request, Lease)
        if lease.adapter is None:
            raise RecordError("prepare needs an adapter")
        await engine.prepare(parse_digest(lease.adapter), lease.holder)
        return _json({})

    async def release(request: web.Request) -> web.Response:
        lease = await _body(request, Lease)
        return _json(await engine.release(lease.adapter, lease.holder))

    async def score(request: web.Request) -> web.Response:
        return _json(await engine.score(await _body(request, Score)))

    async def health(_: web.Request) -> web.Response:
        health = await engine.health()
        said = {"people_quiet_s": quiet.seconds, "incarnation": incarnation}
        return _json(msgspec.structs.replace(health, **said))

    async def generate(request: web.Request) -> web.StreamResponse:
        wanted = await _body(request, Generate)
        # Somebody else may have had the same adapter loaded since; nobody has proven it here.
        if wanted.incarnation not in ("", incarnation):
            raise NotFoundError("the engine was started anew", next_step="prepare and prove again")
        with quiet.during(wanted):
            return await _answer(engine, wanted, request)

    async def start(_: web.Application) -> None:
        await engine.start()

    async def stop(_: web.Application) -> None:
        await engine.stop()

    app = web.Application(client_max_size=_BODY_MAX_BYTES, middlewares=[_tell_errors])
    app.add_routes(
        [
            web.post("/prepare", prepare),
            web.post("/release", release),
            web.post("/generate", generate),
            web.post("/score", score),
            web.get("/health", health),
        ]
    )
    app.on_startup.append(start)
    app.on_cleanup.append(stop)
    return app


async def _answer(engine: EnginePort, wanted: Generate, request: web.Request) -> web.StreamResponse:
    """The lines of one request. A refusal before the first of them is a status of its own."""
    response = web.StreamResponse(headers={"content-type": "application/x-ndjson"})
    async with aclosing(engine.generate(wanted)) as answer:
        try:
            async for lines in answer:
                if not response.prepared:
                    await response.prepare(request)
                await response.write(_encode(lines))
        except ConnectionError:
            # The client has left; closing the answer stops the engine.
            return response
        except EspalierError as error:
            if not response.prepared:
                raise
            await response.write(_encode([Line(error=describe(error)[1])]))
    await response.write_eof()
    return response


def _encode(lines: list[Line]) -> bytes:
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


@web.middleware
async def _tell_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except EspalierError as error:
        status, problem = describe(error)
        return _json(problem, status=status)


async def _body(request: web.Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"not a {kind.__name__}: {error}") from error


def _json(value: object, *, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json"
    )
