"""The embedded engine behind the Engine port: requests go to its thread, tokens come back."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import TypeVar

from appliance.core.digests import Digest, short
from appliance.core.errors import NotFoundError
from appliance.core.home import Home
from appliance.engine.wire import Generate, Health, Line, Released, Score, Scores
from appliance.inference.adapter_files import MAX_RANK, read_adapter
from appliance.inference.engine import Engine, choose_seed
from appliance.inference.outbox import Outbox
from appliance.inference.scoring import ScoreJob
from appliance.inference.sequence import Stream
from appliance.inference.worker import Worker

T = TypeVar("T")
Facts = dict[str, str | int | float | bool]


class EmbeddedEngine:
    """One engine, for its event loop. See `appliance.engine.port.EnginePort`."""

    def __init__(self, engine: Engine, *, home: Home, base: Digest, facts: Facts) -> None:
        """facts: what the caller knows of this engine, for `health`."""
        self._engine = engine
        self._home = home
        self._base = base
        self._facts: Facts = {
            "kind": "embedded",
            "max_rank": MAX_RANK,
            "context_length": engine.context_length,
            "logprobs": "processed",
            "replicas": 1,
            **facts,
        }
        self._outbox = Outbox()
        self._worker = Worker(engine, self._outbox.flush)

    async def start(self) -> None:
        """Begin to work."""
        self._worker.start()

    async def stop(self) -> None:
        """End the engine's thread."""
        await asyncio.to_thread(self._worker.stop)

    async def prepare(self, adapter: Digest, holder: str) -> None:
        """Make an adapter resident and keep it so for `holder`."""
        if not self._home.adapter(adapter).is_dir():
            raise NotFoundError(f"there is no adapter {short(adapter)} in {self._home.adapters}")
        # Read even when it is resident: whoever asks learns whether the files are intact.
        weights = await asyncio.to_thread(
            read_adapter,
            self._home.adapter(adapter),
            adapter,
            base=self._base,
            shape=self._engine.model.shape,
            dtype=self._engine.model.dtype,
        )
        await self._do(lambda engine: engine.install(adapter, weights, holder))

    async def release(self, adapter: Digest | None, holder: str) -> Released:
        """Stop keeping an adapter."""
        return await self._do(lambda engine: engine.release(adapter, holder))

    async def generate(self, request: Generate) -> AsyncGenerator[list[Line], None]:
        """The answer, as lines that came together."""
        rules = None
        if request.has_rules:
            rules = await asyncio.to_thread(self._engine.rules, request)
        stream = Stream(
            request,
            choose_seed(request),
            emit=self._outbox.emit,
            fail=self._outbox.fail,
            stop_ids=frozenset(request.stop_ids),
            rules=rules,
        )
        answer = self._outbox.open(stream)
        open_choices = request.n
        try:
            await self._do(lambda engine: engine.add(stream))
            while open_choices:
                lines = await answer.lines(
                    logprobs=request.logprobs, top_logprobs=request.top_logprobs > 0
                )
                open_choices -= sum(1 for line in lines if line.finish_reason)
                yield lines if open_choices else [*lines, _last_line(stream)]
        finally:
            # Reached with choices open when nobody reads the rest.
            self._outbox.close(stream)
            if open_choices:
                self._worker.submit(lambda engine: engine.cancel(stream))

    async def score(self, wanted: Score) -> Scores:
        """Logprobs of given ids. There is one replica, which agrees with itself."""
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
        return Scores(logprobs=await answer)

    async def health(self) -> Health:
        """How the engine is."""
        engine = self._engine
        return Health(
            base=self._base,
            resident=engine.residents.digests,
            running=engine.num_running,
            waiting=engine.num_waiting,
            tokens_generated=engine.tokens_generated,
            rss_mib=_rss_mib(),
            capabilities=self._facts,
        )

    async def _do(self, act: Callable[[Engine], T]) -> T:
        return await asyncio.wrap_future(self._worker.submit(act))


def _last_line(stream: Stream) -> Line:
    num_prompt = len(stream.request.prompt_ids)
    return Line(done=True, prompt_tokens=num_prompt, cached_tokens=stream.cached_tokens)


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
