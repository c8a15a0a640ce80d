"""The first page, and the stream that tells open pages to look again."""

import asyncio
import time
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from appliance.control.console.asking import Here, Reader, page
from appliance.control.console.visits import Changes
from appliance.control.reading import overview as reading
from appliance.control.reading.pulse import EVERY_S

router = APIRouter()

_LOOK_S = 1.0
_STREAM_S = 600.0
"""A browser opens it again by itself; so a session that has ended is found out."""


@router.get("/")
def overview(request: Request, here: Here, who: Reader) -> Response:
    """What is served, what it does, what waits for you."""
    found = reading.overview(here, who, request.app.state.pulse)
    return page(request, "overview.html", title="Overview", found=found, live=True)


@router.get("/live")
async def live(request: Request, who: Reader) -> Response:
    """Server-sent events: ``changed`` when the database did, ``pulse`` every few seconds."""
    del who
    changes: Changes = request.app.state.changes
    return StreamingResponse(_look(request, changes), media_type="text/event-stream")


async def _look(request: Request, changes: Changes) -> AsyncIterator[bytes]:
    began = told = time.monotonic()
    seen = changes.count()
    yield b"retry: 2000\n\n"
    while time.monotonic() - began < _STREAM_S and not await request.is_disconnected():
        await asyncio.sleep(_LOOK_S)
        now = changes.count()
        pulse = time.monotonic() - told >= EVERY_S
        if now != seen:
            seen = now
            yield b"event: changed\ndata: 1\n\n"
        if pulse:
            told = time.monotonic()
            yield b"event: pulse\ndata: 1\n\n"
