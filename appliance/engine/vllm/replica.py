"""One vLLM server, asked over its socket: OpenAI's completions with token ids, LoRA, health.

Only what the Engine port needs of it is called, with ids in and ids out; nothing that a user sends
reaches a path or a name here.
"""

import asyncio
import math
from collections.abc import AsyncGenerator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from appliance.core.errors import (
    AdapterError,
    EspalierError,
    IntegrityError,
    NotFoundError,
    UnavailableError,
    UsageError,
)
from appliance.engine.wire import Generate, Line

_CONNECT_TIMEOUT_S = 5.0
_ADMIN_TIMEOUT_S = 120.0
_HEALTH_TIMEOUT_S = 5.0
_IMPOSSIBLE = -9999.0
"""What vLLM says for a probability of 0, JSON having no infinity."""
_EVENT = b"data: "
_DONE = b"[DONE]"


class _Logprobs(msgspec.Struct):
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(msgspec.Struct):
    index: int
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _CachedTokens(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    prompt_tokens_details: _CachedTokens | None = None


class _Failure(msgspec.Struct, frozen=True):
    message: str = "no reason"
    code: int = 500


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Failure | None = None


class _Logprob(msgspec.Struct):
    logprob: float | None


class _Scored(msgspec.Struct):
    index: int
    prompt_logprobs: list[dict[str, _Logprob] | None]


class _ScoredBatch(msgspec.Struct):
    choices: list[_Scored]


class _Refusal(msgspec.Struct):
    error: _Failure = _Failure()


_chunk = msgspec.json.Decoder(_Chunk)


class FailedRequestError(UnavailableError):
    """vLLM answered that it failed: this request, or all of them."""


class Replica:
    """A client of one server; `open` first, `close` last."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._session: aiohttp.ClientSession | None = None

    def open(self) -> None:
        """Make the connection pool; on the event loop."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=str(self.socket), limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"content-type": "application/json"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S),
            read_bufsize=1 << 20,
        )

    async def close(self) -> None:
        """Close the connections; what runs on them stops."""
        if self._session is not None:
            await self._session.close()

    async def generate(self, request: Generate, model: str) -> AsyncGenerator[list[Line], None]:
        """The answer, an event at a time; the last has `done`. Closing it early stops vLLM.

        Raises:
            EspalierError: as the port says.
        """
        done = Line(done=True, prompt_tokens=len(request.prompt_ids))
        try:
            async with self._http.post(
                "http://vllm/v1/completions", data=msgspec.json.encode(_body(request, model))
            ) as answer:
                if answer.status != 200:
                    raise _refused(answer.status, await answer.read())
                while raw := await answer.content.readline():
                    if not raw.startswith(_EVENT):
                        continue
                    data = raw[len(_EVENT) :].strip()
                    if data == _DONE:
                        yield [done]
                        return
                    chunk = _chunk.decode(data)
                    if chunk.error is not None:
                        raise _told(chunk.error.code, chunk.error.message)
                    if chunk.usage is not None and chunk.usage.prompt_tokens_details is not None:
                        cached = chunk.usage.prompt_tokens_details.cached_tokens or 0
                        done = msgspec.structs.replace(done, cached_tokens=cached)
                    if lines := [_line(choice, request) for choice in chunk.choices]:
                        yield lines
        except (aiohttp.ClientError, OSError, msgspec.DecodeError) as error:
            raise _gone(error) from error
        raise _gone("it closed the connection in mid-answer")

    async def score(self, rows: list[list[int]], model: str) -> list[list[float]]:
        """Logprobs of given ids at temperature 1; result[i][j] is that of rows[i][j + 1]."""
        # A row of one id has nothing to be scored, and vLLM gives no list for it.
        scored = [row for row in rows if len(row) > 1]
        if not scored:
            return [[] for _ in rows]
        ask = {
            "model": model,
            "prompt": scored,
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": 0,
            "priority": 1,
        }
        batch = await self._call("/v1/completions", ask)
        try:
            choices = msgspec.json.decode(batch, type=_ScoredBatch).choices
        except msgspec.DecodeError as error:
            raise _gone(error) from error
        answers = iter(sorted(choices, key=lambda choice: choice.index))
        return [
            _row_logprobs(row, next(answers).prompt_logprobs) if len(row) > 1 else []
            for row in rows
        ]

    async def load(self, name: str, path: Path) -> None:
        """Load an adapter under a name that was never used before.

        Raises:
            AdapterError: vLLM does not take it.
            UnavailableError: the server does not answer.
        """
        try:
            await self._call("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path)})
        except UnavailableError as error:
            # It answers 500 for an adapter that it cannot load; one that is gone does not answer.
            if await self.healthy():
                raise AdapterError("malformed", f"vLLM cannot load it: {error.message}") from error
            raise
        except (UsageError, NotFoundError) as error:
            raise AdapterError("malformed", f"vLLM cannot load it: {error.message}") from error

    async def unload(self, name: str) -> None:
        """Forget a name. Requests that use it end with it."""
        await self._call("/v1/unload_lora_adapter", {"lora_name": name})

    async def healthy(self) -> bool | None:
        """Whether it says that it can work; None where it says nothing for some seconds."""
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT_S):
                async with self._http.get("http://vllm/health") as answer:
                    return answer.status == 200
        except TimeoutError:
            return None
        except (aiohttp.ClientError, OSError):
            return False

    async def _call(self, path: str, body: dict[str, Any]) -> bytes:
        try:
            async with asyncio.timeout(_ADMIN_TIMEOUT_S):
                async with self._http.post(
                    f"http://vllm{path}",
                    data=msgspec.json.encode(body),
                ) as answer:
                    raw = await answer.read()
                    if answer.status != 200:
                        raise _refused(answer.status, raw)
                    return raw
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _gone(error) from error

    @property
    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise UnavailableError("this replica is not open")
        return self._session


def _body(request: Generate, model: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "prompt": request.prompt_ids,
        "n": request.n,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k or -1,
        "seed": None if request.seed is None else _spread(request.seed),
        "stop_token_ids": request.stop_ids,
        "stop": request.stops,
        # Ids end an answer where the request names them, and only there.
        "ignore_eos": True,
        "skip_special_tokens": False,
        "logprobs": request.top_logprobs,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "priority": 0 if request.priority == "interactive" else 1,
    }
    wanted = {"json": request.json_schema, "grammar": request.grammar}
    if kept_to := {kind: text for kind, text in wanted.items() if text}:
        body["structured_outputs"] = kept_to
    return body


def _spread(seed: int) -> int:
    """vLLM draws choice i with seed + i: neighbours would get one another's answers."""
    data = seed.to_bytes(8, "little", signed=True)
    return int.from_bytes(blake2b(data, digest_size=7).digest(), "little")


def _line(choice: _Choice, request: Generate) -> Line:
    """One choice's part of an event.

    Raises:
        IntegrityError: the model gave numbers that are not finite.
    """
    ids = choice.token_ids or []
    logprobs = choice.logprobs.token_logprobs if choice.logprobs else []
    finite = [value for value in logprobs if value is not None and math.isfinite(value)]
    if len(finite) != len(ids):
        raise IntegrityError("the model gave numbers that are not finite")
    tops = (choice.logprobs.top_logprobs or []) if choice.logprobs else []
    return Line(
        index=choice.index,
        ids=ids,
        logprobs=finite if request.logprobs else [],
        top_logprobs=[_top(top, request.top_logprobs) for top in tops]
        if request.top_logprobs
        else [],
        finish_reason="" if choice.finish_reason is None else _finish(choice.finish_reason),
    )


def _finish(reason: str) -> Any:
    if reason not in ("stop", "length"):
        raise UnavailableError(f"vLLM ended the answer with {reason!r}")
    return reason


def _top(values: dict[str, float] | None, count: int) -> list[tuple[int, float]]:
    """The likeliest ids. vLLM adds the one that was drawn, which may be less likely."""
    pairs = [
        (int(name.removeprefix("token_id:")), value)
        for name, value in (values or {}).items()
        if value > _IMPOSSIBLE
    ]
    return sorted(pairs, key=lambda pair: -pair[1])[:count]


def _row_logprobs(row: list[int], steps: list[dict[str, _Logprob] | None]) -> list[float]:
    values = [
        entry[str(token)].logprob if entry and str(token) in entry else None
        for token, entry in zip(row[1:], steps[1:], strict=True)
    ]
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if len(finite) != len(values):
        raise IntegrityError("the model gave numbers that are not finite")
    return finite


def _refused(status: int, body: bytes) -> EspalierError:
    try:
        message = msgspec.json.decode(body, type=_Refusal).error.message
    except msgspec.DecodeError:
        message = body[:200].decode(errors="replace")
    return _told(status, message)


def _told(status: int, message: str) -> EspalierError:
    message = message.splitlines()[0][:300] if message else "no reason"
    if status == 404:
        return NotFoundError(message, next_step="prepare it first")
    if 400 <= status < 500:
        return UsageError(message)
    return FailedRequestError(f"vLLM failed: {message}")


def _gone(error: object) -> UnavailableError:
    return UnavailableError(
        f"a vLLM replica does not answer: {error or type(error).__name__}",
        next_step="read logs/engine.log and logs/vllm-*.log",
    )
