"""What routes read of a request: its body, its session, its prompt's ids."""

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from fastapi import Request

from appliance.core.errors import RecordError
from appliance.engine.template import Template
from serving.openai_errors import ApiError

BODY_MAX_BYTES = 32 << 20
_ENCODE_HERE_MAX_BYTES = 64 << 10
"""A longer request is rendered in a thread, so that it does not hold up the others."""

T = TypeVar("T")


async def read_body(request: Request) -> bytes:
    """The whole body.

    Raises:
        ApiError: 413, it is too long.
    """
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > BODY_MAX_BYTES:
            raise ApiError(413, f"a request has at most {BODY_MAX_BYTES >> 20} MiB")
    return b"".join(parts)


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
        if size <= _ENCODE_HERE_MAX_BYTES:
            return template.encode(messages, tools)
        return await asyncio.to_thread(template.encode, messages, tools)
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
