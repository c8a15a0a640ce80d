"""The engine's private socket: HTTP in, lines of JSON out. Wire types: appliance/engine/wire.py."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec
from aiohttp import web

from appliance.core.digests import Digest, parse_digest, short
from appliance.core.errors import EspalierError, NotFoundError, RecordError
from appliance.core.home import Home
from appliance.engine.wire import Generate, Health, Lease, Line, Score, Scores, describe
from appliance.inference.adapter_files import MAX_RANK, read_adapter
from appliance.inference.engine import Engine, choose_seed
from appliance.inference.outbox import Outbox
from appliance.inference.scoring import ScoreJob
from appliance.inference.sequence import Stream
from appliance.inference.worker import Worker

_BODY_MAX_BYTES = 256 << 20
_BACKLOG = 1024
"""A Unix socket refuses at once what does not fit here, so it must hold any burst."""

T = TypeVar("T")
Facts = dict[str, str | int | float | bool]


class Server:
    """Answers for one engine."""

    def __init__(self, engine: Engine, *, home: Home, base: Digest, facts: Facts) -> None:
        """facts: what the caller knows of this engine, for `/health`."""
        self._engine = engine
        self._home = home
        self._base = base
        self._facts: Facts = {
            "kind": "embedded",
            "max_rank": MAX_RANK,
            "context_length": engine.context_length,
            "logprobs": "processed",
            **facts,
        }
        self._outbox = Outbox()
        self._worker = Worker(engine, self._outbox.flush)

    def application(self) -> web.Application:
        """The routes; the engine's thread lives as long as the application."""
        app = web.Application(client_max_size=_BODY_MAX_BYTES, middlewares=[_tell_errors])
        app.add_routes(
            [
                web.post("/prepare", self._prepare),
                web.post("/release", self._release),
                web.post("/generate", self._generate),
                web.post("/score", self._score),
                web.get("/health", self._health),
            ]
        )
        app.on_startup.append(self._start)
        app.on_cleanup.append(self._stop)
        return app

    async def _start(self, _: web.Application) -> None:
        self._worker.start()

    async def _stop(self, _: web.Application) -> None:
        await asyncio.to_thread(self._worker.stop)

    async def _prepare(self, request: web.Request) -> web.Response:
        lease = await _body(request, Lease)
        if lease.adapter is None:
            raise RecordError("prepare needs an adapter")
        digest = parse_digest(lease.adapter)
        if not self._home.adapter(digest).is_dir():
            raise NotFoundError(f"there is no adapter {short(digest)} in {self._home.adapters}")
        # Read even when it is resident: whoever asks learns whether the files are intact.
        weights = await asyncio.to_thread(
            read_adapter,
            self._home.adapter(digest),
            digest,
            base=self._base,
            shape=self._engine.model.shape,
            dtype=self._engine.model.dtype,
        )
        await self._do(lambda engine: engine.install(digest, weights, lease.holder))
        return _json({})

    async def _release(self, request: web.Request) -> web.Response:
        lease = await _body(request, Lease)
        return _json(await self._do(lambda engine: engine.release(lease.adapter, lease.holder)))

    async def _health(self, _: web.Request) -> web.Response:
        engine = self._engine
        return _json(
            Health(
                base=self._base,
                resident=engine.residents.digests,
                running=engine.num_running,
                waiting=engine.num_waiting,
                tokens_generated=engine.tokens_generated,
                rss_mib=_rss_mib(),
                capabilities=self._facts,
            )
        )

    async def _score(self, request: web.Request) -> web.Response:
        wanted = await _body(request, Score)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[list[float]]] = loop.create_future()

        def settle(act: Callable[[], None]) -> None:
            loop.call_soon_threadsafe(lambda: None if answer.done() else act())

        job = ScoreJob(
            wanted.ids,
            wanted.adapter,
            done=lambda logprobs: settle(lambda: answer.set_result(logprobs)),
            failed=lambda error: settle(lambda: answer.set_exception(error)),
        )
        await self._do(lambda engine: engine.add_score(job))
        return _json(Scores(logprobs=await answer))

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        wanted = await _body(request, Generate)
        stream = Stream(
            wanted,
            choose_seed(wanted),
            emit=self._outbox.emit,
            fail=self._outbox.fail,
            stop_ids=frozenset(wanted.stop_ids),
        )
        answer = self._outbox.open(stream)
        open_choices = wanted.n
        try:
            await self._do(lambda engine: engine.add(stream))
            response = web.StreamResponse(headers={"content-type": "application/x-ndjson"})
            await response.prepare(request)
            while open_choices:
                try:
                    lines = await answer.lines(
                        logprobs=wanted.logprobs, top_logprobs=wanted.top_logprobs > 0
                    )
                except EspalierError as error:
                    lines, open_choices = [Line(error=describe(error)[1])], 0
                else:
                    open_choices -= sum(1 for line in lines if line.finish_reason)
                    lines += [] if open_choices else [_last_line(stream)]
                await response.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
            await response.write_eof()
            return response
        finally:
            # Reached with choices open when the client has left: nobody reads the rest.
            self._outbox.close(stream)
            if open_choices:
                self._worker.submit(lambda engine: engine.cancel(stream))

    async def _do(self, act: Callable[[Engine], T]) -> T:
        return await asyncio.wrap_future(self._worker.submit(act))


async def listen(server: Server, path: Path, ready: Callable[[], None]) -> None:
    """Serve on a Unix socket that only its owner may open, until cancelled."""
    runner = web.AppRunner(server.application(), access_log=None, handler_cancellation=True)
    await runner.setup()
    before = os.umask(0o177)
    try:
        await web.UnixSite(runner, str(path), backlog=_BACKLOG).start()
    finally:
        os.umask(before)
    try:
        ready()
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def _last_line(stream: Stream) -> Line:
    num_prompt = len(stream.request.prompt_ids)
    return Line(done=True, prompt_tokens=num_prompt, cached_tokens=stream.cached_tokens)


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


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
