"""A body's time, size and company: what it may take of the gateway before it is understood."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from typing import Any, cast

import openai
import pytest
from fastapi import Request

from serving import reading
from serving.openai.wire import parse_chat
from serving.openai_errors import ApiError
from serving.reading import beside, read_body, read_prompt
from tests.serving.conftest import ALIAS, GatewayProcess
from tests.serving.raw import post


class Sending:
    """A request whose body comes in these parts, and then, perhaps, no more."""

    def __init__(self, *parts: bytes, ends: bool = True) -> None:
        self._parts = parts
        self._ends = ends

    async def stream(self) -> AsyncGenerator[bytes]:
        for part in self._parts:
            yield part
            await asyncio.sleep(0)
        if not self._ends:
            await asyncio.Event().wait()


def sending(*parts: bytes, ends: bool = True) -> Request:
    return cast(Request, Sending(*parts, ends=ends))


def test_a_body_that_does_not_end_is_a_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BODY_MAX_S", 0.05)
    with pytest.raises(ApiError, match=r"within 0\.05 seconds") as caught:
        asyncio.run(read_body(sending(b"{", ends=False)))
    assert caught.value.status == 408
    assert caught.value.headers["connection"] == "close"


def test_all_bodies_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BODIES_MAX_BYTES", 100)

    async def three() -> list[Any]:
        slow = asyncio.create_task(read_body(sending(b"x" * 60, ends=False)))
        await asyncio.sleep(0.01)
        second = await asyncio.gather(read_body(sending(b"y" * 60)), return_exceptions=True)
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        return [*second, await read_body(sending(b"z" * 60))]

    refused, taken = asyncio.run(three())
    assert (refused.status, refused.code) == (503, "overloaded")
    assert taken == b"z" * 60, "what is read, refused or left is given back"


def test_a_body_that_cannot_fit_is_refused_unparsed() -> None:
    with pytest.raises(ApiError, match="expected at most 1049216") as caught:
        asyncio.run(read_prompt(sending(b"x" * (1 << 20), b"x" * 700), parse_chat, 10))
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")
    with pytest.raises(ApiError, match="not JSON"):
        asyncio.run(read_prompt(sending(b"x" * (1 << 20), b"x" * 600), parse_chat, 10))


@pytest.mark.parametrize(("size", "here"), [(10, True), (65 << 10, False)])
def test_what_is_long_is_done_in_threads_of_our_own(size: int, here: bool) -> None:
    name = asyncio.run(beside(size, lambda: threading.current_thread().name))
    assert name.startswith("reading") is not here


BIG = "a" * (2 << 20)
BODIES: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": [{"role": "user", "content": BIG}]},
    "completions": {"prompt": BIG},
    "responses": {"input": BIG},
    "messages": {"messages": [{"role": "user", "content": BIG}], "max_tokens": 5},
    "messages/count_tokens": {"messages": [{"role": "user", "content": BIG}]},
}


@pytest.mark.parametrize("route", BODIES)
def test_every_route_refuses_by_size(
    client: openai.OpenAI, gateway: GatewayProcess, route: str
) -> None:
    status, _, body = post(gateway, route, client.api_key, {"model": ALIAS, **BODIES[route]})
    assert status == 400
    assert "2048 tokens" in body["error"]["message"]
    assert "bytes" in body["error"]["message"]
