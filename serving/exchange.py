"""One request on its way through the engine, and the turns that it becomes.

The gateway's tap: one `Turn` per choice, handed to ingest before the client has the last byte.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from typing import Any

import msgspec
import numpy as np

from appliance.core.digests import Digest, digest_bytes, short
from appliance.core.errors import EspalierError, NotFoundError, UnavailableError
from appliance.core.records import ArrayRef, Sampling, Turn
from appliance.engine.client import AsyncEngine
from appliance.engine.wire import Generate, Line
from appliance.ingest import Ingest
from serving.answers import Answer
from serving.keys import Key
from serving.openai_errors import ApiError
from serving.structured import require_schema_met
from serving.versions import Versions

TAP_WAIT_S = 0.25
"""Longest time that an answer waits for its turn to be written; after that it is sent, and the
turn follows from ingest's queue. Nobody waits for the disk's flush (ADR 0015)."""
RETRY_AFTER_S = 0.2
"""How long an engine that did not answer is left alone before it is asked again, once."""

Piece = tuple[int, str, int]
"""Of an answer: which choice, its new certain text, the index of its first new token."""

_log = logging.getLogger("espalier.tap")


class TapCounts(msgspec.Struct, kw_only=True):
    """What became of the requests since the start."""

    requests: int = 0
    failed: int = 0
    disconnected: int = 0
    """Clients that left before the answer's end. A turn tells of it once anything was sent."""
    late: int = 0
    """Answers sent before their turn was written (it followed)."""


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
    asked: bool = False
    """Whether an engine was given it that did not fail: the prompt is computed, or soon is."""

    @property
    def completion_tokens(self) -> int:
        """Sampled tokens over all choices."""
        return sum(len(answer.ids) for answer in self.answers)

    @property
    def fingerprint(self) -> str:
        """Which version answers, in short."""
        return "base" if self.adapter is None else short(self.adapter)

    @property
    def _ended_early(self) -> bool:
        """Whether nothing more is wanted although the engine goes on: stop strings."""
        finished = all(answer.finish_reason for answer in self.answers)
        return finished and not all(answer.ended for answer in self.answers)

    async def run(
        self, engine: AsyncEngine, versions: Versions, *, streaming: bool
    ) -> AsyncGenerator[Iterable[Piece], None]:
        """Feed the engine; yields what is new, together what came together.

        Of a stream each piece is made when it is asked for, and the next step when all were.

        As long as nothing of the answer is out, it is begun again, once for each cause: an engine
        that was started anew has lost its adapters, which are loaded again, and one that died may
        be back, or have a replica that lives. Leaving early stops the engine.
        """
        causes: set[type[EspalierError]] = set()
        incarnation = ""
        while True:
            try:
                incarnation = await versions.require_ready(self.adapter)
                async with aclosing(self._run_once(engine, incarnation, streaming)) as steps:
                    async for pieces in steps:
                        yield pieces
                return
            except (NotFoundError, UnavailableError) as error:
                self.asked = False
                out = streaming and self.completion_tokens
                if out or type(error) in causes:
                    if isinstance(error, NotFoundError):
                        # No model that the client could name otherwise.
                        raise UnavailableError(f"not loaded again: {error.message}") from error
                    raise
                causes.add(type(error))
                self.answers = [answer.fresh() for answer in self.answers]
                if isinstance(error, UnavailableError):
                    await asyncio.sleep(RETRY_AFTER_S)
                elif self.adapter is None:
                    raise
                else:
                    await versions.load_again(self.adapter, refused=incarnation)

    async def _run_once(
        self, engine: AsyncEngine, incarnation: str, streaming: bool
    ) -> AsyncGenerator[Iterable[Piece], None]:
        self.asked = True
        asked = msgspec.structs.replace(self.generate, incarnation=incarnation)
        async with aclosing(engine.stream(asked)) as steps:
            async for lines in steps:
                pieces = self._take(lines, streaming)
                yield pieces if streaming else list(pieces)
                if self._ended_early:
                    break

    def _take(self, lines: list[Line], streaming: bool) -> Iterator[Piece]:
        for line in lines:
            self.cached_tokens = line.cached_tokens or self.cached_tokens
            if line.index < 0:
                continue
            answer = self.answers[line.index]
            first, finished = len(answer.ids), answer.finish_reason
            text = answer.take(line, streaming=streaming)
            if not finished:
                yield line.index, text, first

    async def require_met(self) -> None:
        """Raise unless every answer that came to its own end is what it was held to.

        Raises:
            ApiError: 500; the engine did not keep to it, or a forced call cannot be read.
        """
        if self.generate.grammar and any(a.finish_reason == "stop" for a in self.answers):
            raise ApiError(
                500,
                "the answer is no tool call that can be read, though one was asked for",
                kind="server_error",
                code="tool_call_not_met",
            )
        if not self.generate.json_schema:
            return
        ended = [a.text for a in self.answers if a.finish_reason == "stop" and not a.stop]
        await require_schema_met(self.generate.json_schema, ended, key_id=self.key.key_id)

    def fail(self) -> None:
        """It cannot go on: each answer is what was handed out of it, and says ``error``."""
        for answer in self.answers:
            answer.fail()

    def leave(self) -> None:
        """Nobody takes the rest: what has not ended fails."""
        for answer in self.answers:
            if not answer.finish_reason:
                answer.fail()

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


def hand_in(exchange: Exchange, ingest: Ingest) -> list["asyncio.Future[None]"]:
    """Hand the turns to ingest; each future is done once its turn is written."""
    turns, arrays = exchange.turns(time.time())
    try:
        return [asyncio.wrap_future(ingest.send_turn(turn, arrays)) for turn in turns]
    except EspalierError as error:
        # Counted and logged by ingest. The answer exists; keeping it back would not save the turn.
        _log.error("turn %s is not in the log: %s", exchange.request_id, error)
        return []


async def until_written(waiting: list["asyncio.Future[None]"], counts: TapCounts) -> None:
    """Wait, shortly."""
    if not waiting:
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
