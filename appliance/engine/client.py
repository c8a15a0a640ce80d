"""Clients of an engine's private socket: one for event loops, one for plain code.

Both say the same. Errors of the engine come back as errors of our tree; an engine that is not
there is an UnavailableError.
"""

import http.client
import socket
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec

from appliance.core.digests import Digest
from appliance.core.errors import UnavailableError
from appliance.engine.wire import (
    Generate,
    Health,
    Lease,
    Line,
    Released,
    Score,
    Scores,
    revive,
    revive_body,
)

_NEXT_STEP = "espalier doctor says whether the engine runs"
_CONNECT_TIMEOUT_S = 10.0
_ANSWER_TIMEOUT_S = 600.0

_lines = msgspec.json.Decoder(Line)

T = TypeVar("T")


class Choice(msgspec.Struct, kw_only=True):
    """One finished answer."""

    ids: list[int] = []
    logprobs: list[float] = []
    top_logprobs: list[list[tuple[int, float]]] = []
    finish_reason: str = ""


class Generation(msgspec.Struct, kw_only=True):
    """All choices of one request."""

    choices: list[Choice]
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens of the first choice that were not computed again."""

    def take(self, line: Line) -> None:
        """Add what one line says."""
        self.prompt_tokens = line.prompt_tokens or self.prompt_tokens
        self.cached_tokens = line.cached_tokens or self.cached_tokens
        if line.index < 0:
            return
        choice = self.choices[line.index]
        choice.ids += line.ids
        choice.logprobs += line.logprobs
        choice.top_logprobs += line.top_logprobs
        choice.finish_reason = line.finish_reason or choice.finish_reason


def _empty(request: Generate) -> Generation:
    return Generation(choices=[Choice() for _ in range(request.n)])


class AsyncEngine:
    """For the gateway. Use as ``async with``, or call `close`."""

    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "AsyncEngine":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; a running answer stops."""
        if self._session is not None:
            await self._session.close()

    async def stream(self, request: Generate) -> AsyncGenerator[list[Line], None]:
        """The answer's lines, those together that came together; the last is `done`.

        Leaving early stops the engine.

        Raises:
            EspalierError: the engine refused or failed.
        """
        try:
            async with self._open().post(
                "http://engine/generate", data=msgspec.json.encode(request)
            ) as answer:
                if answer.status != 200:
                    raise revive_body(await answer.read())
                finished, rest = False, b""
                while came := await answer.content.readany():
                    whole, newline, rest = (rest + came).rpartition(b"\n")
                    lines = _lines.decode_lines(whole + newline)
                    problem = lines.pop().error if lines and lines[-1].error else None
                    if lines:
                        finished = lines[-1].done
                        yield lines
                    if problem is not None:
                        raise revive(problem)
        except (aiohttp.ClientError, OSError, msgspec.DecodeError) as error:
            raise _gone(error) from error
        if not finished:
            raise _gone("it closed the connection in mid-answer")

    async def generate(self, request: Generate) -> Generation:
        """The whole answer."""
        result = _empty(request)
        async for lines in self.stream(request):
            for line in lines:
                result.take(line)
        return result

    async def prepare(self, adapter: Digest, holder: str = "") -> None:
        """Load an adapter and keep it resident for `holder`. Twice is once.

        Raises:
            AdapterError: it is not fit to be loaded.
            ConflictError: every slot is held.
        """
        await self._call("/prepare", Lease(adapter=adapter, holder=holder), dict)

    async def release(self, adapter: Digest | None, holder: str = "") -> Released:
        """Stop keeping an adapter (None: all that `holder` holds)."""
        return await self._call("/release", Lease(adapter=adapter, holder=holder), Released)

    async def score(
        self, adapter: Digest | None, ids: Sequence[Sequence[int]], *, every_replica: bool = False
    ) -> list[list[float]]:
        """Logprobs of given ids; result[i][j] is that of ids[i][j + 1].

        `every_replica` asks all of them, and raises IntegrityError unless they say the same.
        """
        body = Score(adapter=adapter, ids=[list(row) for row in ids], every_replica=every_replica)
        return (await self._call("/score", body, Scores)).logprobs

    async def health(self) -> Health:
        """How the engine is."""
        return await self._call("/health", None, Health)

    async def _call(self, path: str, body: msgspec.Struct | None, kind: type[T]) -> T:
        try:
            async with self._open().request(
                "GET" if body is None else "POST",
                f"http://engine{path}",
                data=None if body is None else msgspec.json.encode(body),
            ) as answer:
                raw = await answer.read()
                if answer.status != 200:
                    raise revive_body(raw)
                return msgspec.json.decode(raw, type=kind)
        except (aiohttp.ClientError, OSError, msgspec.DecodeError) as error:
            raise _gone(error) from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(path=str(self._path), limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S),
                read_bufsize=1 << 20,
            )
        return self._session


class Engine:
    """For plain code: evaluation, probes, releases. Safe to share between threads."""

    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path

    def generate(self, request: Generate) -> Generation:
        """The whole answer."""
        result = _empty(request)
        for line in self.stream(request):
            result.take(line)
        return result

    def generate_many(
        self, requests: Iterable[Generate], *, concurrency: int = 32
    ) -> list[Generation]:
        """Answers in the order of the requests, `concurrency` of them under way at a time."""
        with ThreadPoolExecutor(max_workers=concurrency) as pool:
            return list(pool.map(self.generate, requests))

    def stream(self, request: Generate) -> Iterator[Line]:
        """The answer's lines as they come, the last with `done`. Leaving early stops the engine."""
        connection = self._open()
        try:
            connection.request("POST", "/generate", body=msgspec.json.encode(request))
            answer = connection.getresponse()
            if answer.status != 200:
                raise revive_body(answer.read())
            finished = False
            for raw in answer:
                line = msgspec.json.decode(raw, type=Line)
                if line.error is not None:
                    raise revive(line.error)
                finished = line.done
                yield line
        except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
            raise _gone(error) from error
        finally:
            connection.close()
        if not finished:
            raise _gone("it closed the connection in mid-answer")

    def prepare(self, adapter: Digest, holder: str = "") -> None:
        """Load an adapter and keep it resident for `holder`. Twice is once.

        Raises:
            AdapterError: it is not fit to be loaded.
            ConflictError: every slot is held.
        """
        self._call("/prepare", Lease(adapter=adapter, holder=holder), dict)

    def release(self, adapter: Digest | None, holder: str = "") -> Released:
        """Stop keeping an adapter (None: all that `holder` holds)."""
        return self._call("/release", Lease(adapter=adapter, holder=holder), Released)

    def score(
        self, adapter: Digest | None, ids: Sequence[Sequence[int]], *, every_replica: bool = False
    ) -> list[list[float]]:
        """Logprobs of given ids; result[i][j] is that of ids[i][j + 1]. See AsyncEngine."""
        body = Score(adapter=adapter, ids=[list(row) for row in ids], every_replica=every_replica)
        return self._call("/score", body, Scores).logprobs

    def health(self) -> Health:
        """How the engine is."""
        return self._call("/health", None, Health)

    def _call(self, path: str, body: msgspec.Struct | None, kind: type[T]) -> T:
        connection = self._open()
        try:
            payload = None if body is None else msgspec.json.encode(body)
            connection.request("GET" if body is None else "POST", path, body=payload)
            answer = connection.getresponse()
            raw = answer.read()
            if answer.status != 200:
                raise revive_body(raw)
            return msgspec.json.decode(raw, type=kind)
        except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
            raise _gone(error) from error
        finally:
            connection.close()

    def _open(self) -> http.client.HTTPConnection:
        return _UnixConnection(self._path)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP to a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("engine", timeout=_ANSWER_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _gone(error: object) -> UnavailableError:
    return UnavailableError(f"the engine does not answer: {error}", next_step=_NEXT_STEP)
