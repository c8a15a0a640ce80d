"""What routes read of a request: its body, its session, its prompt's ids.

What grows with the body is bounded before it is done, and of a long one done in threads of its own.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec
from fastapi import Request

from appliance.core.errors import RecordError
from appliance.engine.template import Template
from serving.openai_errors import ApiError

BODY_MAX_BYTES = 32 << 20
BODY_MAX_S = 30.0
"""From the head to the body's last byte; a request takes its place before."""
BODIES_MAX_BYTES = 256 << 20
"""Of all bodies that are being read, together."""
TOKEN_MAX_BYTES = 64
"""A body longer than that for each token of the context is refused unparsed."""
_BESIDE_PROMPT_BYTES = 1 << 20
_HERE_MAX_BYTES = 64 << 10
"""A longer request is parsed and rendered in a thread, so that it does not hold up the others."""

T = TypeVar("T")

_threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="reading")


class _BeingRead:
    """Bytes of the bodies that are being read now."""

    total = 0


async def read_body(request: Request) -> bytes:
    """The whole body.

    Raises:
        ApiError: 413, it is too long; 408, it takes too long; 503, too much is being read.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_MAX_S):
            async for part in request.stream():
                parts.append(part)
                size += len(part)
                _BeingRead.total += len(part)
                _require_room(size)
    except TimeoutError as error:
        raise ApiError(
            408,
            f"the request's body did not come within {BODY_MAX_S:g} seconds",
            code="request_timeout",
            headers={"connection": "close"},
        ) from error
    finally:
        _BeingRead.total -= size
    return b"".join(parts)


async def read_prompt(
    request: Request, parse: Callable[[bytes], T], context_length: int, *, param: str = "messages"
) -> tuple[T, int]:
    """What `parse` makes of a body with a prompt, and the body's size in bytes.

    Raises:
        ApiError: as `read_body` and `parse`; 400, it is too long for this context.
    """
    body = await read_body(request)
    most = context_length * TOKEN_MAX_BYTES + _BESIDE_PROMPT_BYTES
    if len(body) > most:
        raise ApiError(
            400,
            f"the request has {len(body)} bytes, expected at most {most}; this model's limit is "
            f"{context_length} tokens for prompt and answer together",
            param=param,
            code="context_length_exceeded",
        )
    return await beside(len(body), lambda: parse(body)), len(body)


async def beside(size: int, work: Callable[[], T]) -> T:
    """Do work that grows with `size` bytes of a request; where they are many, in a thread."""
    if size <= _HERE_MAX_BYTES:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_threads, work)


def read_session(request: Request) -> str | None:
    """The session that a request says it belongs to.

    Raises:
        ApiError: 400, it is not a short printable word.
    """
    session = request.headers.get("x-espalier-session")
    if session is None:
        return None
    if not 1 <= len(session) <= 256 or not session.isprintable():
        raise ApiError(
            400, "x-espalier-session has 1 to 256 printable characters", param="x-espalier-session"
        )
    return session


async def encode(
    template: Template,
    messages: Sequence[dict[str, Any]],
    tools: Sequence[Any],
    *,
    size: int,
    param: str = "messages",
) -> list[int]:
    """The ids of a conversation whose request's body has `size` bytes.

    Raises:
        ApiError: 400, no template can carry it.
    """
    try:
        return await beside(size, lambda: template.encode(messages, tools))
    except RecordError as error:
        raise ApiError(400, error.message, param=param) from error


def decode(decoder: "msgspec.json.Decoder[T]", body: bytes) -> T:
    """The request that a body is.

    Raises:
        ApiError: 400, naming the parameter at fault.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise ApiError(400, str(error), param=_param(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, f"the body is not JSON: {error}") from error


def _require_room(size: int) -> None:
    if size > BODY_MAX_BYTES:
        raise ApiError(413, f"a request has at most {BODY_MAX_BYTES >> 20} MiB")
    if _BeingRead.total > BODIES_MAX_BYTES:
        raise ApiError(
            503,
            f"the gateway is full: it reads {BODIES_MAX_BYTES >> 20} MiB of requests; try again",
            kind="service_unavailable",
            code="overloaded",
            headers={"connection": "close"},
        )


def _param(message: str) -> str | None:
    """The parameter that msgspec names: ``… - at `$.temperature```, or a missing field."""
    _, found, path = message.rpartition("at `$.")
    if found:
        return path.rstrip("`")
    for before in ("missing required field `", "contains unknown field `"):
        _, found, name = message.partition(before)
        if found:
            return name.rstrip("`")
    return None
