"""Clients against an engine that goes away. (The real one: tests/inference.)"""

import asyncio
import socket
import threading

import pytest

from appliance.core.errors import AdapterError, NotFoundError, UnavailableError
from appliance.engine.client import AsyncEngine, Engine
from appliance.engine.wire import Generate, describe, revive

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
LINE = b'{"index":0,"ids":[5],"logprobs":[-1.0]}\n'
FAILED = b'{"error":{"kind":"UnavailableError","message":"out of room"}}\n'


def chunk(data):
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@pytest.fixture
def listen(tmp_path):
    """listen(answer) → the path of a socket that gives every request these bytes and hangs up."""
    servers = []

    def start(answer):
        path = tmp_path / "engine.sock"
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.listen()

        def serve():
            connection, _ = server.accept()
            with connection:
                asked = b""
                while not asked.endswith(b"}"):
                    asked += connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        servers.append((server, thread))
        return path

    yield start
    for server, thread in servers:
        thread.join(5)
        server.close()


def plain(path):
    return Engine(path).generate(Generate(prompt_ids=[1]))


def evented(path):
    async def ask():
        async with AsyncEngine(path) as engine:
            return await engine.generate(Generate(prompt_ids=[1]))

    return asyncio.run(ask())


@pytest.mark.parametrize("ask", [plain, evented])
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (HEAD + chunk(LINE), "does not answer"),
        (HEAD + chunk(LINE) + b"0\r\n\r\n", "in mid-answer"),
        (HEAD + chunk(LINE) + chunk(FAILED) + b"0\r\n\r\n", "out of room"),
        (b"HTTP/1.1 500 Oh\r\ncontent-length: 3\r\n\r\nwhy", "engine answered b'why'"),
        (b"", "does not answer"),
    ],
)
def test_an_engine_that_breaks_off_is_unavailable(listen, ask, answer, message):
    with pytest.raises(UnavailableError, match=message):
        ask(listen(answer))


@pytest.mark.parametrize("ask", [plain, evented])
def test_no_engine_is_unavailable(tmp_path, ask):
    with pytest.raises(UnavailableError, match="does not answer"):
        ask(tmp_path / "nobody.sock")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (AdapterError("nan", "not numbers", next_step="train again"), 422),
        (NotFoundError("not here"), 404),
        (UnavailableError("later"), 503),
    ],
)
def test_errors_keep_their_kind_on_the_wire(error, status):
    got, problem = describe(error)
    revived = revive(problem)
    assert got == status
    assert (type(revived), str(revived)) == (type(error), str(error))
    assert getattr(revived, "reason", None) == getattr(error, "reason", None)
