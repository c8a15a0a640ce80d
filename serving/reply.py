"""An HTTP answer that runs the exchange: whole or as a stream of events.

It stops the engine when the client leaves, turns errors into OpenAI's shape (before the first
byte as a status, after it as an event), and taps before the last byte.
"""

import asyncio
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from appliance.core.errors import EspalierError
from appliance.engine.client import AsyncEngine
from appliance.ingest import Ingest
from serving.exchange import Exchange, TapCounts, tap
from serving.openai_errors import ApiError, from_espalier
from serving.openai_shapes import Shape
from serving.versions import Lease, Versions

_DONE = b"data: [DONE]\n\n"


class Reply(Response):
    """Takes over the lease of its version, and gives it back when the last byte is out."""

    def __init__(
        self,
        exchange: Exchange,
        shape: Shape,
        lease: Lease,
        *,
        engine: AsyncEngine,
        versions: Versions,
        ingest: Ingest,
        counts: TapCounts,
        stream: bool,
        include_usage: bool,
        adapter_header: str,
    ) -> None:
        self._exchange = exchange
        self._shape = shape
        self._lease = lease
        self._engine = engine
        self._versions = versions
        self._ingest = ingest
        self._counts = counts
        self._stream = stream
        self._include_usage = include_usage
        self._adapter_header = adapter_header.encode()
        self._started = False
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer. ASGI calls this once."""
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
                await self._answer(scope, receive, send)
            except asyncio.CancelledError:
                if not left:
                    raise
                if task is not None:
                    task.uncancel()
                self._counts.disconnected += 1
            finally:
                watcher.cancel()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self._stream:
                await self._send_stream(send)
            else:
                await self._send_whole(send)
        except (ApiError, EspalierError) as error:
            self._counts.failed += 1
            refusal = error if isinstance(error, ApiError) else from_espalier(error)
            if not self._started:
                await refusal.response()(scope, receive, send)
            else:
                event = b"data: %s\n\n" % msgspec.json.encode(refusal.body)
                await send({"type": "http.response.body", "body": event})

    async def _send_whole(self, send: Send) -> None:
        async for _ in self._exchange.run(self._engine, self._versions):
            pass
        body = msgspec.json.encode(self._shape.whole(self._exchange))
        await tap(self._exchange, self._ingest, self._counts)
        await self._start(send, b"application/json", len(body))
        await send({"type": "http.response.body", "body": body})

    async def _send_stream(self, send: Send) -> None:
        # Ends of choices wait for the tap; text does not.
        ends: list[int] = []
        async for index, text, first in self._exchange.run(self._engine, self._versions):
            if not self._started:
                await self._start(send, b"text/event-stream; charset=utf-8", None)
            piece = self._shape.piece(self._exchange, index, text, first)
            if piece is not None:
                await self._send_events(send, piece)
            if self._exchange.answers[index].finish_reason:
                ends.append(index)
        await tap(self._exchange, self._ingest, self._counts)
        last = [self._shape.end(self._exchange, index) for index in ends]
        if self._include_usage:
            last.append(self._shape.usage_chunk(self._exchange))
        await self._send_events(send, *last, end=True)

    async def _send_events(self, send: Send, *events: dict[str, Any], end: bool = False) -> None:
        body = b"".join(b"data: %s\n\n" % msgspec.json.encode(event) for event in events)
        await send(
            {
                "type": "http.response.body",
                "body": body + _DONE if end else body,
                "more_body": not end,
            }
        )

    async def _start(self, send: Send, media_type: bytes, size: int | None) -> None:
        headers = [(b"content-type", media_type), (b"x-espalier-adapter", self._adapter_header)]
        if size is None:
            headers.append((b"cache-control", b"no-cache"))
        else:
            headers.append((b"content-length", str(size).encode()))
        self._started = True
        await send({"type": "http.response.start", "status": 200, "headers": headers})
