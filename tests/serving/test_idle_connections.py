"""Ten thousand connections that do nothing: requests are answered as before."""

import asyncio
import resource
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn
from uvicorn.server import ServerState

from serving.connections import Connection
from tests.serving.asking import wait_until
from tests.serving.conftest import ALIAS, GatewayProcess, say

WANTED = 10_000
SPARE_FILES = 500
KIB_PER_CONNECTION = 40


@pytest.fixture
def num_connections() -> Iterator[int]:
    """As many as the bound on open files lets this process hold, at most `WANTED`."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    yield WANTED if most == resource.RLIM_INFINITY else min(WANTED, most - SPARE_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


def test_requests_are_answered_beside_ten_thousand_idle_connections(
    client: openai.OpenAI,
    gateway: GatewayProcess,
    num_connections: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    pid = gateway.pid
    alone_ms = ask_many(client)
    files, memory_kib = num_files(pid), resident_kib(pid)
    idle: list[socket.socket] = []
    try:
        for number in range(num_connections):
            idle.append(socket.create_connection((host, int(port)), timeout=5))
            # Some have asked once, and some are stuck in the middle of a head.
            if number % 10 == 0:
                idle[-1].sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
                assert idle[-1].recv(1000).startswith(b"HTTP/1.1 200")
            elif number % 10 == 1:
                idle[-1].sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost:")
        # Of the files that it had before, some may be closed by now.
        wait_until(lambda: num_files(pid) >= num_connections, 20)
        each_kib = (resident_kib(pid) - memory_kib) / num_connections
        beside_ms = ask_many(client)
        with capsys.disabled():
            print(
                f"\n{num_connections} idle connections: {each_kib:.1f} KiB each; "
                f"an answer took {alone_ms:.1f} ms before, {beside_ms:.1f} ms beside them"
            )
        assert each_kib < KIB_PER_CONNECTION
        assert beside_ms < 3 * alone_ms + 20
    finally:
        for connection in idle:
            connection.close()
    wait_until(lambda: num_files(pid) < files + 50, 10)
    assert ask_many(client) < 3 * alone_ms + 20


def ask_many(client: openai.OpenAI, times: int = 50) -> float:
    """Milliseconds of an answer, at the median; each is checked."""
    took = []
    for number in range(times):
        began = time.perf_counter()
        answer = client.chat.completions.create(model=ALIAS, messages=say(f"I am {number}"))
        took.append((time.perf_counter() - began) * 1000)
        assert answer.choices[0].message.content == f"I am {number}"
    return statistics.median(took)


def num_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


HEAD = b"GET / HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize("sent", [b"", HEAD, HEAD + b"\r\n"], ids=["nothing", "half", "request"])
def test_an_idle_connection_is_closed_in_the_end(sent: bytes) -> None:
    assert asyncio.run(closed_after(sent, waits_s=0.3)) == pytest.approx(0.3, abs=0.15)


def test_a_slow_answer_is_not_idleness() -> None:
    assert asyncio.run(closed_after(HEAD + b"\r\n", waits_s=0.1, answers_in_s=0.5)) > 0.55


async def closed_after(sent: bytes, *, waits_s: float, answers_in_s: float = 0.0) -> float:
    """Seconds until the gateway's side closes a connection on which only this was sent."""

    async def app(_: Any, __: Any, send: Any) -> None:
        await asyncio.sleep(answers_in_s)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    config = uvicorn.Config(app, log_config=None)
    config.load()
    config.timeout_keep_alive = waits_s  # type: ignore[assignment]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(config, ServerState(), {}),
        "127.0.0.1",
        0,  # type: ignore[arg-type]
    )
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(sent)
    await asyncio.wait_for(reader.read(), 5)
    took = time.perf_counter() - began
    writer.close()
    server.close()
    await server.wait_closed()
    return took
