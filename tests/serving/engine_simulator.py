"""An engine without a model: the real wire on a real Unix socket, answers from a script.

What it says stands in the prompt: ``say:{"text": …, "delay_s": …}``; without it, it says who it
is. It keeps adapters resident by holder as the real one does, counts streams that were left early,
and can be told to hold other weights than its adapters' (`weights`).
"""

import asyncio
import json
import threading
import zlib
from collections import defaultdict
from pathlib import Path

import msgspec
from aiohttp import web

from appliance.core.digests import Digest, short
from appliance.core.errors import ConflictError, EspalierError, NotFoundError
from appliance.engine.template import Template
from appliance.engine.wire import (
    Generate,
    Health,
    Lease,
    Line,
    Released,
    Score,
    Scores,
    describe,
)


class EngineSimulator:
    """Use as a context manager; `stop` and `start` again stand for a crash."""

    def __init__(self, socket_path: Path, base: Digest, template: Template, slots: int = 4) -> None:
        self.path = socket_path
        self.base = base
        self.template = template
        self.slots = slots
        self.holders: dict[Digest, set[str]] = defaultdict(set)
        self.weights: dict[Digest, Digest] = {}
        """Adapter → the adapter whose weights it really has; absent is right."""
        self.noop: set[Digest] = set()
        """Adapters that are loaded and change nothing."""
        self.requests: list[Generate] = []
        self.left_early = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "EngineSimulator":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        ready = threading.Event()
        self.holders.clear()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)))
        self._thread.start()
        assert ready.wait(5)

    def stop(self) -> None:
        if self._thread is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
            self._thread = None

    async def _serve(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        app = web.Application(middlewares=[_tell_errors], client_max_size=1 << 28)
        app.add_routes(
            [
                web.post("/prepare", self._prepare),
                web.post("/release", self._release),
                web.post("/generate", self._generate),
                web.post("/score", self._score),
                web.get("/health", self._health),
            ]
        )
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await runner.setup()
        self.path.unlink(missing_ok=True)
        await web.UnixSite(runner, str(self.path)).start()
        ready.set()
        await self._stopping.wait()
        await runner.cleanup()

    async def _prepare(self, request: web.Request) -> web.Response:
        lease = msgspec.json.decode(await request.read(), type=Lease)
        assert lease.adapter is not None
        if lease.adapter not in self.holders and len(self.holders) >= self.slots:
            raise ConflictError("all adapter slots are taken")
        self.holders[lease.adapter].add(lease.holder)
        return _json({})

    async def _release(self, request: web.Request) -> web.Response:
        lease = msgspec.json.decode(await request.read(), type=Lease)
        freed = []
        for adapter in [lease.adapter] if lease.adapter else list(self.holders):
            self.holders[adapter].discard(lease.holder)
            if not self.holders[adapter]:
                del self.holders[adapter]
                freed.append(adapter)
        return _json(Released(freed=freed))

    async def _score(self, request: web.Request) -> web.Response:
        wanted = msgspec.json.decode(await request.read(), type=Score)
        self._require_resident(wanted.adapter)
        adapter = wanted.adapter
        if adapter is not None:
            adapter = None if adapter in self.noop else self.weights.get(adapter, adapter)
        return _json(Scores(logprobs=[score(adapter, row) for row in wanted.ids]))

    async def _health(self, _: web.Request) -> web.Response:
        health = Health(
            base=self.base,
            resident=list(self.holders),
            running=0,
            waiting=0,
            tokens_generated=0,
            rss_mib=1.0,
            capabilities={"context_length": 4096},
        )
        return _json(health)

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        wanted = Generate(**msgspec.json.decode(await request.read()))
        self._require_resident(wanted.adapter)
        self.requests.append(wanted)
        text, delay_s = self._script(wanted)
        ids = [*self.template.encode_text(text), self.template.stop_ids[0]]
        reason = "stop" if len(ids) <= wanted.max_tokens else "length"
        ids = ids[: wanted.max_tokens]
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            for at, token in enumerate(ids):
                for index in range(wanted.n):
                    line = Line(
                        index=index,
                        ids=[token],
                        logprobs=[-0.25 * (index + 1)],
                        top_logprobs=[[(token, -0.25), (7, -3.5)][: wanted.top_logprobs]]
                        if wanted.top_logprobs
                        else [],
                        finish_reason=reason if at == len(ids) - 1 else "",
                    )
                    await response.write(msgspec.json.encode(line) + b"\n")
                if delay_s:
                    await asyncio.sleep(delay_s)
            last = Line(done=True, prompt_tokens=len(wanted.prompt_ids), cached_tokens=3)
            await response.write(msgspec.json.encode(last) + b"\n")
        except (asyncio.CancelledError, ConnectionError):
            self.left_early += 1
            raise
        await response.write_eof()
        return response

    def _script(self, wanted: Generate) -> tuple[str, float]:
        prompt = self.template.decode(wanted.prompt_ids)
        _, found, rest = prompt.rpartition("say:")
        if found:
            script, _ = json.JSONDecoder().raw_decode(rest)
            return script["text"], script.get("delay_s", 0.0)
        return f"I am {short(wanted.adapter) if wanted.adapter else 'base'}", 0.0

    def _require_resident(self, adapter: Digest | None) -> None:
        if adapter is not None and adapter not in self.holders:
            raise NotFoundError(f"adapter {short(adapter)} is not resident")


def score(adapter: Digest | None, ids: list[int]) -> list[float]:
    """Logprobs that only this adapter gives to these ids."""
    seed = zlib.crc32((adapter or "base").encode())
    return [-1.0 - (seed * (token + 1) * (at + 1) % 997) / 997 for at, token in enumerate(ids[1:])]


@web.middleware
async def _tell_errors(request: web.Request, handler: object) -> web.StreamResponse:
    try:
        return await handler(request)  # type: ignore[operator]
    except EspalierError as error:
        status, problem = describe(error)
        return _json(problem, status)


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json"
    )
