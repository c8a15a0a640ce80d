"""An HTTP answer that runs the exchange: whole or as a stream of events.

It stops the engine when the client leaves, tells an error (before the first byte by raising it,
after it as an event of the protocol) and taps before the last byte. Where a stream breaks off in
the middle, the turn that is logged holds what was sent, and says ``error``: also where the client
left, which may have read everything but the end.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from appliance.core.errors import EspalierError
from appliance.engine.client import AsyncEngine
from appliance.ingest import Ingest
from serving.ask import Shape
from serving.exchange import Exchange, Piece, TapCounts, hand_in, until_written
from serving.openai_errors import ApiError, from_espalier
from serving.under_way import Place
from serving.versions import Lease, Versions

KILLED_SEND_S = 1.0
"""How long a client may take to read that it was killed. Other clients: connections.py."""

_log = logging.getLogger("espalier.reply")


class Reply(Response):
    """Takes over the lease of its version, and gives it back when the last byte is out."""

    def __init__(
        self,
        place: Place,
        exchange: Exchange,
        shape: Shape,
        lease: Lease,
        *,
        engine: AsyncEngine,
        versions: Versions,
        ingest: Ingest,
        counts: TapCounts,
        stream: bool,
        headers: Mapping[str, str],
    ) -> None:
        self._place = place
        self._exchange = exchange
        self._shape = shape
        self._lease = lease
        self._engine = engine
        self._versions = versions
        self._ingest = ingest
        self._counts = counts
        self._stream = stream
        self._limits_left = headers
        self._started = False
        self._handed_in = False
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer. ASGI calls this once.

        Raises:
            ApiError, EspalierError: nothing was sent yet; the caller says so in its protocol.
        """
        del scope
        with self._lease:
            left = False
            task = asyncio.current_task()

            async def watch() -> None:
                nonlocal left
                while (await receive())["type"] != "http.disconnect":
                    pass
                left = True
                if task is not None:
                    task.cancel()

            watcher = asyncio.create_task(watch())
            try:
                await self._answer(send)
            except asyncio.CancelledError:
                if not left:
                    raise
                if task is not None:
                    task.uncancel()
                self._counts.disconnected += 1
                self._place.left = True
            finally:
                watcher.cancel()

    async def _answer(self, send: Send) -> None:
        try:
            if self._stream:
                await self._send_stream(send)
            else:
                await self._send_whole(send)
        except asyncio.CancelledError:
            killed = self._place.spare()
            if killed is None:
                self._leave()
                raise
            await self._fail_killed(send, killed)
        except (ApiError, EspalierError) as error:
            await self._fail(send, error if isinstance(error, ApiError) else from_espalier(error))
        except Exception:
            _log.exception("answer %s broke off", self._exchange.request_id)
            await self._fail(send, ApiError(500, "an error of ours", kind="server_error"))

    def _leave(self) -> None:
        """Whoever it is that goes, the client has what was sent."""
        if self._started:
            self._exchange.leave()
            self._hand_in()

    async def _fail_killed(self, send: Send, killed: ApiError) -> None:
        try:
            async with asyncio.timeout(KILLED_SEND_S):
                await self._fail(send, killed)
        except TimeoutError:
            _log.warning("a killed client does not read: %s is cut", self._exchange.request_id)

    async def _fail(self, send: Send, error: ApiError) -> None:
        self._counts.failed += 1
        if not self._started:
            raise error
        self._place.error = error
        self._exchange.fail()
        await self._send_last(send, lambda: self._shape.failure(self._exchange, error))

    async def _send_whole(self, send: Send) -> None:
        async with aclosing(self._run()) as steps:
            async for _ in steps:
                self._place.token()
        await self._exchange.require_met()
        await self._send_last(send, lambda: self._shape.whole(self._exchange))

    async def _send_stream(self, send: Send) -> None:
        # Ends of choices wait for the tap; text does not.
        async with aclosing(self._run()) as steps:
            async for pieces in steps:
                self._place.token()
                events = []
                if not self._started:
                    await self._start(send, b"text/event-stream; charset=utf-8", None)
                    events.append(self._shape.begin(self._exchange))
                events += [self._shape.piece(self._exchange, *piece) for piece in pieces]
                if body := b"".join(events):
                    await self._send(send, body)
        await self._exchange.require_met()
        await self._send_last(send, lambda: self._shape.end(self._exchange))

    async def _send_last(self, send: Send, make: Callable[[], bytes]) -> None:
        """What ends the answer; it is made while the turn is written, and sent after."""
        waiting = self._hand_in()
        body = make()
        await until_written(waiting, self._counts)
        if not self._started:
            await self._start(send, b"application/json", len(body))
        await self._send(send, body, end=True)

    def _hand_in(self) -> list["asyncio.Future[None]"]:
        """Once: what ends an answer may come while the tap waits, and the log forgets nothing."""
        if self._handed_in:
            return []
        self._handed_in = True
        return hand_in(self._exchange, self._ingest)

    def _run(self) -> AsyncGenerator[Iterable[Piece], None]:
        return self._exchange.run(self._engine, self._versions, streaming=self._stream)

    async def _send(self, send: Send, body: bytes, *, end: bool = False) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": not end})

    async def _start(self, send: Send, media_type: bytes, size: int | None) -> None:
        request_id = self._exchange.request_id.encode()
        headers = [
            (b"content-type", media_type),
            (b"x-espalier-adapter", (self._exchange.adapter or "base").encode()),
            # As OpenAI's clients and as Anthropic's look for it: the turn's id.
            (b"x-request-id", request_id),
            (b"request-id", request_id),
            *((name.encode(), value.encode()) for name, value in self._limits_left.items()),
        ]
        if size is None:
            headers.append((b"cache-control", b"no-cache"))
        else:
            headers.append((b"content-length", str(size).encode()))
        self._started = True
        await send({"type": "http.response.start", "status": 200, "headers": headers})
