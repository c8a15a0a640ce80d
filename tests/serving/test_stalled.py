"""A client that does not read what it asked for: it is cut off, and holds nothing."""

import asyncio
import socket
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from serving.connections import Connection


def test_who_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "stalled_s", 0.3)
    assert asyncio.run(cut_off(reads_every_s=None)) < 3


def test_who_reads_slowly_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "stalled_s", 0.5)
    with pytest.raises(TimeoutError):
        asyncio.run(cut_off(reads_every_s=0.001))


async def cut_off(*, reads_every_s: float | None) -> float:
    """Seconds until an endless answer's request is told that its client is gone."""
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()

    async def app(_: Any, receive: Any, send: Any) -> None:
        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()

        watcher = asyncio.create_task(watch())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not gone.is_set():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            await asyncio.sleep(0)
        await watcher

    config = uvicorn.Config(app, log_config=None)
    config.load()
    server = await loop.create_server(
        lambda: Connection(config, ServerState(), {}),
        "127.0.0.1",
        0,  # type: ignore[arg-type]
    )
    began = loop.time()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.setblocking(False)
        await loop.sock_connect(client, server.sockets[0].getsockname())
        await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")

        async def read() -> None:
            while reads_every_s is not None:
                await loop.sock_recv(client, 65536)
                await asyncio.sleep(reads_every_s)

        reader = asyncio.create_task(read())
        try:
            async with asyncio.timeout(3):
                await gone.wait()
        finally:
            reader.cancel()
            client.close()
            await asyncio.wait_for(gone.wait(), 3)
            server.close()
            await server.wait_closed()
    return loop.time() - began
