"""Talking to versions: the same prompt to up to three of them, streamed side by side.

The gateway answers as it answers any agent; nothing here knows an engine.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import aiohttp
import msgspec
from msgspec import Meta

from appliance.control import supervisor
from appliance.control.acting.said import Answer, Ended, Problem, Said, Token
from appliance.control.identity import Person
from appliance.control.own_keys import console_key
from appliance.control.reading.talk import Version, chosen, sees_adapter
from appliance.control.steps import Ground
from appliance.core.errors import EspalierError, ForbiddenError, UnavailableError, UsageError
from policies.access import Act

MAX_SIDES = 3
TOP_TOKENS = 5
_KEY_WAIT_S = 5.0
"""The gateway reads its keys once a second."""
_SILENCE_S = 120.0
_LINE_BYTES = 1 << 20
_TRY_STATUS = "espalier status says which part is down; then ask again"


class Ask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prompt, to whom, and how to sample."""

    models: Annotated[list[str], Meta(min_length=1, max_length=MAX_SIDES)]
    messages: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    tools: list[dict[str, Any]] = []
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    max_tokens: Annotated[int, Meta(ge=1, le=1 << 16)] = 512
    seed: Annotated[int, Meta(ge=0, le=2**53 - 1)] | None = None
    probabilities: bool = False
    """Say how likely each token was, and what else could have stood there."""


class Talk(msgspec.Struct, frozen=True, kw_only=True):
    """An order that may be carried out."""

    ground: Ground
    person: Person
    ask: Ask
    versions: list[Version]
    secret: str


def prepare(ground: Ground, person: Person, ask: Ask) -> Talk:
    """Look who asks whom. Blocks for a moment.

    Raises:
        ForbiddenError: this person does not talk.
        NotFoundError: a version is not there, or not for this person.
        UsageError: a version stands there twice.
    """
    person.require(Act.TALK)
    if len(set(ask.models)) < len(ask.models):
        raise UsageError("the same version stands there twice", next_step="choose different ones")
    return Talk(
        ground=ground,
        person=person,
        ask=ask,
        versions=chosen(ground, person, ask.models),
        secret=console_key(ground),
    )


async def stream(talk: Talk) -> AsyncIterator[Said]:
    """What all sides say, as it comes. A side that cannot answer says so; the others go on."""
    queue: asyncio.Queue[Said | None] = asyncio.Queue()
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=_SILENCE_S)
    async with aiohttp.ClientSession(timeout=timeout, read_bufsize=_LINE_BYTES) as session:
        sides = range(len(talk.versions))
        tasks = [asyncio.create_task(_answer(talk, session, side, queue)) for side in sides]
        try:
            left = len(tasks)
            while left:
                said = await queue.get()
                if said is None:
                    left -= 1
                else:
                    yield said
            await asyncio.gather(*tasks)
        finally:
            # Who leaves ends the answers: the gateway sees it, and the engine stops.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def events(talk: Talk) -> AsyncIterator[bytes]:
    """The stream as server-sent events."""
    async for said in stream(talk):
        yield b"data: %s\n\n" % msgspec.json.encode(said)


async def collect(talk: Talk) -> list[Answer]:
    """The answers, once all sides are done."""
    answers = [Answer(version=version) for version in talk.versions]
    async for said in stream(talk):
        answers[said.side].hear(said)
    return answers


async def _answer(
    talk: Talk, session: aiohttp.ClientSession, side: int, queue: "asyncio.Queue[Said | None]"
) -> None:
    try:
        async for said in _ask(talk, session, side):
            queue.put_nowait(said)
    except EspalierError as error:
        queue.put_nowait(_failed(side, error.message, error.next_step))
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        reason = str(error) or type(error).__name__
        queue.put_nowait(_failed(side, f"the gateway does not answer: {reason}", _TRY_STATUS))
    finally:
        queue.put_nowait(None)


async def _ask(talk: Talk, session: aiohttp.ClientSession, side: int) -> AsyncIterator[Said]:
    started = time.monotonic()
    response = await _post(talk, session, side, started)
    async with response:
        adapter = response.headers.get("x-espalier-adapter", "")
        await _require_seen(talk, side, adapter)
        yield Said(side=side, adapter=adapter)
        finish = ""
        calls: list[Any] = []
        async for raw in response.content:
            data = raw.strip().removeprefix(b"data: ")
            if not data:
                continue
            if data == b"[DONE]":
                seconds = round(time.monotonic() - started, 2)
                yield Said(side=side, done=Ended(finish, seconds, calls))
                return
            chunk = msgspec.json.decode(data)
            if "error" in chunk:
                raise _refusal(chunk)
            for choice in chunk["choices"]:
                delta = choice["delta"]
                for one in (choice.get("logprobs") or {}).get("content") or ():
                    yield Said(side=side, token=_token(one))
                if delta.get("content"):
                    yield Said(side=side, text=delta["content"])
                calls += delta.get("tool_calls") or []
                finish = choice["finish_reason"] or finish
    raise UnavailableError("the answer broke off: the gateway ended", next_step=_TRY_STATUS)


async def _post(
    talk: Talk, session: aiohttp.ClientSession, side: int, started: float
) -> aiohttp.ClientResponse:
    """The answer that has begun.

    Raises:
        EspalierError: the gateway refuses, or is not there.
    """
    url = f"http://{_address(talk.ground)}/v1/chat/completions"
    headers = {"authorization": f"Bearer {talk.secret}", "content-type": "application/json"}
    body = msgspec.json.encode(_body(talk.ask, talk.versions[side].model))
    while True:
        response = await session.post(url, data=body, headers=headers)
        if response.status == 200:
            return response
        async with response:
            refusal = _refusal(_json(await response.read()))
        if response.status != 401 or time.monotonic() - started > _KEY_WAIT_S:
            raise refusal
        await asyncio.sleep(0.25)


async def _require_seen(talk: Talk, side: int, adapter: str) -> None:
    """Between the choice and the answer the alias may have moved."""
    if adapter == (talk.versions[side].adapter or "base"):
        return
    if not await asyncio.to_thread(sees_adapter, talk.ground, talk.person, adapter):
        raise ForbiddenError(
            "the alias moved to a version that is above your label", next_step="choose another one"
        )


def _body(ask: Ask, model: str) -> dict[str, Any]:
    body = {
        "model": model,
        "messages": ask.messages,
        "temperature": ask.temperature,
        "top_p": ask.top_p,
        "max_tokens": ask.max_tokens,
        "n": 1,
        "stream": True,
    }
    if ask.seed is not None:
        body["seed"] = ask.seed
    if ask.tools:
        body["tools"] = ask.tools
    if ask.probabilities:
        body |= {"logprobs": True, "top_logprobs": TOP_TOKENS}
    return body


def _address(ground: Ground) -> str:
    state = supervisor.running(ground.home)
    if state is None:
        raise UnavailableError("the gateway is not running", next_step="espalier up")
    host, port = state["gateway"]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _token(one: dict[str, Any]) -> Token:
    top = [(other["token"], _prob(other["logprob"])) for other in one.get("top_logprobs") or ()]
    return Token(one["token"], _prob(one["logprob"]), top)


def _prob(logprob: float | None) -> float:
    return 0.0 if logprob is None else round(math.exp(min(logprob, 0.0)), 4)


def _json(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        return {}


def _refusal(body: Any) -> EspalierError:
    """The gateway's own words."""
    detail = body.get("error") if isinstance(body, dict) else None
    said = str(detail.get("message", "")) if isinstance(detail, dict) else ""
    message, _, next_step = said.partition("\n  next: ")
    return UnavailableError(
        message or "the gateway refused, and did not say why",
        next_step=next_step or "change the prompt or the versions, or see espalier status",
    )


def _failed(side: int, message: str, next_step: str) -> Said:
    return Said(side=side, error=Problem(message, next_step))
