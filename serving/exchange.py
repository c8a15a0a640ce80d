"""One request on its way through the engine, and the turns that it becomes.

The gateway's tap: one `Turn` per choice, handed to ingest before the client has the last byte.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, cast

import msgspec
import numpy as np

from appliance.core.digests import Digest, digest_bytes
from appliance.core.errors import EspalierError, NotFoundError
from appliance.core.records import ArrayRef, Sampling, Turn
from appliance.engine.client import AsyncEngine
from appliance.engine.wire import Generate, Line
from appliance.ingest import Ingest
from serving.answers import Answer
from serving.keys import Key
from serving.versions import Versions

TAP_WAIT_S = 0.25
"""Longest time that an answer waits for its turn to be durable; after that it is sent, and the
turn follows from ingest's queue."""

_log = logging.getLogger("espalier.tap")


class TapCounts(msgspec.Struct, kw_only=True):
    """What became of the requests since the start."""

    requests: int = 0
    failed: int = 0
    disconnected: int = 0
    """Clients that left before the answer's end. No turn: nobody has that answer."""
    late: int = 0
    """Answers sent before their turn was durable (it followed)."""


class Exchange(msgspec.Struct, kw_only=True):
    """A request, as fed to the engine, and its answers as they grow."""

    request_id: str
    key: Key
    label: str
    """The key's, joined with that of the adapter that answers."""
    session: str | None
    base: Digest
    adapter: Digest | None
    template: Digest | None
    messages: tuple[Any, ...]
    tools: tuple[Any, ...]
    generate: Generate
    answers: list[Answer]
    started_at: float
    cached_tokens: int = 0

    @property
    def completion_tokens(self) -> int:
        """Sampled tokens over all choices."""
        return sum(len(answer.ids) for answer in self.answers)

    @property
    def _ended_early(self) -> bool:
        """Whether nothing more is wanted, although the engine would go on: stop strings."""
        ended = all(answer.finish_reason for answer in self.answers)
        return ended and any(answer.cut for answer in self.answers)

    async def run(
        self, engine: AsyncEngine, versions: Versions
    ) -> AsyncIterator[tuple[int, str, int]]:
        """Feed the engine; yields (choice, new certain text, index of its first new token).

        An engine that was started anew has lost its adapters: they are loaded again, once, as long
        as nothing of the answer is out. Leaving early stops the engine.
        """
        for attempt in range(2):
            try:
                stream = cast("AsyncGenerator[Line, None]", engine.stream(self.generate))
                async with aclosing(stream) as lines:
                    async for line in lines:
                        self.cached_tokens = line.cached_tokens or self.cached_tokens
                        if line.index >= 0:
                            answer = self.answers[line.index]
                            if answer.finish_reason:
                                continue
                            first = len(answer.ids)
                            yield line.index, answer.take(line), first
                            if self._ended_early:
                                break
                return
            except NotFoundError:
                if attempt or self.completion_tokens or self.adapter is None:
                    raise
                await versions.load_again(self.adapter)

    def turns(self, ended_at: float) -> tuple[list[Turn], dict[Digest, bytes]]:
        """One turn per choice, and the arrays that they refer to by digest."""
        arrays: dict[Digest, bytes] = {}
        prompt = _array(self.generate.prompt_ids, "int32", arrays)
        ask = self.generate
        sampling = Sampling(
            temperature=ask.temperature,
            top_p=ask.top_p,
            top_k=ask.top_k,
            max_tokens=ask.max_tokens,
            seed=ask.seed,
        )
        turns = [
            Turn(
                turn_id=self.request_id,
                choice=index,
                who=self.key.who,
                label=self.label,
                session=self.session,
                base=self.base,
                adapter=self.adapter,
                template=self.template,
                messages=self.messages,
                tools=self.tools,
                answer=answer.message,
                finish_reason=answer.finish_reason,
                sampling=sampling,
                prompt_ids=prompt,
                answer_ids=_array(answer.ids, "int32", arrays),
                logprobs=_array(answer.logprobs, "float32", arrays),
                started_at=self.started_at,
                ended_at=ended_at,
            )
            for index, answer in enumerate(self.answers)
        ]
        return turns, arrays


async def tap(exchange: Exchange, ingest: Ingest, counts: TapCounts) -> None:
    """Hand the turns to ingest and wait, shortly, until they are durable."""
    turns, arrays = exchange.turns(time.time())
    try:
        waiting = [asyncio.wrap_future(ingest.send_turn(turn, arrays)) for turn in turns]
    except EspalierError as error:
        # Counted and logged by ingest. The answer exists; keeping it back would not save the turn.
        _log.error("turn %s is not in the log: %s", exchange.request_id, error)
        return
    _, late = await asyncio.wait(waiting, timeout=TAP_WAIT_S)
    if late:
        counts.late += 1
        for future in late:
            future.add_done_callback(_retrieve)


def new_request_id(prefix: str) -> str:
    """An id that no other request has."""
    return f"{prefix}-{secrets.token_hex(14)}"


def _array(values: list[Any], dtype: Any, arrays: dict[Digest, bytes]) -> ArrayRef:
    data = np.asarray(values, dtype=np.dtype(dtype).newbyteorder("<")).tobytes()
    digest = digest_bytes(data)
    arrays[digest] = data
    return ArrayRef(digest_of_bytes=digest, dtype=dtype, count=len(values))


def _retrieve(future: "asyncio.Future[None]") -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        _log.error("a turn was refused by the log: %s", error)
