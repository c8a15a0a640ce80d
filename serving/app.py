"""The gateway's public API: OpenAI's routes, and feedback.

The hot path parses JSON once and knows no middleware. What is not here: releases (releases.py) and
the private API (admin.py).
"""

import asyncio
import time
from functools import partial
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from appliance.core.digests import Digest, parse_digest, short
from appliance.core.errors import EspalierError, RecordError
from appliance.core.settings import Settings
from appliance.engine.bases import Base
from appliance.engine.client import AsyncEngine
from appliance.engine.template import Template
from appliance.engine.wire import Generate
from appliance.ingest import Ingest
from policies.labels import flows_to, join
from serving.answers import Answer
from serving.exchange import Exchange, TapCounts, new_request_id
from serving.feedback import parse_feedback
from serving.keys import Key, KeyRing
from serving.openai_errors import ApiError, from_espalier
from serving.openai_shapes import ChatShape, CompletionShape, Shape
from serving.releases import Releases
from serving.reply import Reply
from serving.versions import Versions
from serving.wire import Common, parse_chat, parse_completion

BODY_MAX_BYTES = 32 << 20
_ENCODE_HERE_MAX_BYTES = 64 << 10
"""A longer request is rendered in a thread, so that it does not hold up the others."""


class Gateway:
    """What a request needs, put together once at start."""

    def __init__(
        self,
        *,
        settings: Settings,
        base: Base,
        template: Template,
        engine: AsyncEngine,
        versions: Versions,
        releases: Releases,
        keys: KeyRing,
        ingest: Ingest,
    ) -> None:
        self.settings = settings
        self.base = base
        self.template = template
        self.engine = engine
        self.versions = versions
        self.releases = releases
        self.keys = keys
        self.ingest = ingest
        self.counts = TapCounts()
        self.context_length = base.context_length
        """Tokens of prompt and answer together; less than the base's where the cache is small."""

    def admit(self, request: Request) -> Key:
        """Whose request it is.

        Raises:
            ApiError: 401 without a good key; 403 where its label is above this endpoint's.
        """
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        key = self.keys.find(secret.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            raise ApiError(
                401,
                "a good API key is needed: Authorization: Bearer esp-…",
                kind="authentication_error",
                code="invalid_api_key",
            )
        if not flows_to(key.label, self.settings.gateway.label):
            raise ApiError(
                403,
                f"the key's label {key.label!r} is above this endpoint's, "
                f"{self.settings.gateway.label!r}",
                kind="permission_error",
            )
        return key

    async def address(self, model: str, key: Key) -> Digest | None:
        """The adapter that `model` means now; None is the base.

        Raises:
            ApiError: 404 for a model that is not here, 403 where the key may not address it,
                503 while the alias cannot be served.
            EspalierError: a version named by its digest is not fit to be loaded.
        """
        alias, at, exact = model.partition("@")
        if alias != self.settings.gateway.alias:
            raise _no_model(model, self.settings.gateway.alias)
        if not at:
            return self.releases.champion()
        if not key.exact:
            raise ApiError(
                403,
                f"this key may address {alias!r} only, not an exact version",
                kind="permission_error",
                param="model",
            )
        if exact == "base":
            return None
        try:
            adapter = parse_digest(exact)
        except RecordError as error:
            raise _no_model(model, alias) from error
        if adapter not in self.versions.resident:
            if not await asyncio.to_thread(self.releases.is_ours, adapter):
                raise _no_model(model, alias)
            await self.releases.admit(adapter)
        return adapter

    async def reply(
        self,
        key: Key,
        session: str | None,
        ask: Common,
        shape: type[Shape],
        *,
        prompt_ids: list[int],
        messages: tuple[Any, ...],
        tools: tuple[Any, ...],
        chat: bool,
        max_tokens: int | None,
        logprobs: bool,
        top_logprobs: int,
    ) -> Reply:
        """The answer to come, with its version leased from this moment."""
        room = self.context_length - len(prompt_ids)
        if room < 1:
            raise ApiError(
                400,
                f"the prompt has {len(prompt_ids)} tokens; this model's limit is "
                f"{self.context_length} tokens for prompt and answer together",
                param="messages" if chat else "prompt",
                code="context_length_exceeded",
            )
        adapter = await self.address(ask.model, key)
        generate = Generate(
            adapter=adapter,
            prompt_ids=prompt_ids,
            n=ask.n or 1,
            max_tokens=min(max_tokens or room, room),
            temperature=1.0 if ask.temperature is None else ask.temperature,
            top_p=ask.top_p or 1.0,
            seed=ask.seed,
            stop_ids=self.template.stop_ids,
            logprobs=True,
            top_logprobs=top_logprobs,
            priority="interactive",
        )
        exchange = Exchange(
            request_id=new_request_id(shape.prefix),
            key=key,
            label=key.label
            if adapter is None
            else join((key.label, self.releases.label_of(adapter))),
            session=session,
            base=self.base.digest,
            adapter=adapter,
            template=self.template.digest if chat else None,
            messages=messages,
            tools=tools,
            generate=generate,
            answers=[
                Answer(self.template, stops=ask.stops, tools=tools) for _ in range(generate.n)
            ],
            started_at=time.time(),
        )
        self.counts.requests += 1
        fingerprint = "base" if adapter is None else short(adapter)
        return Reply(
            exchange,
            shape(ask.model, fingerprint, self.template, logprobs),
            self.versions.lease(adapter),
            engine=self.engine,
            versions=self.versions,
            ingest=self.ingest,
            counts=self.counts,
            stream=bool(ask.stream),
            include_usage=bool(ask.stream_options and ask.stream_options.include_usage),
            adapter_header=adapter or "base",
        )


class HotPath:
    """Answers the two routes that carry the traffic; all else goes on to the FastAPI behind it.

    They need nothing of what FastAPI does around a route: dependencies, exit stacks, middleware.
    What the gateway costs: benchmarks/gateway.py.
    """

    def __init__(self, gateway: Gateway, app: FastAPI) -> None:
        self._app = app
        self._routes = {
            "/v1/chat/completions": partial(_chat, gateway),
            "/v1/completions": partial(_completions, gateway),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. ASGI calls this."""
        route = self._routes.get(scope["path"]) if scope["type"] == "http" else None
        if route is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            response = await route(Request(scope, receive))
        except ApiError as error:
            response = error.response()
        except EspalierError as error:
            response = from_espalier(error).response()
        await response(scope, receive, send)


def build_app(gateway: Gateway) -> HotPath:
    """The public routes. Their schema stays private: clients know OpenAI's."""
    app = FastAPI(title="Espalier gateway", openapi_url=None, docs_url=None, redoc_url=None)

    @app.exception_handler(ApiError)
    async def on_api_error(_: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(EspalierError)
    async def on_our_error(_: Request, error: EspalierError) -> Response:
        return from_espalier(error).response()

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def on_no_route(request: Request, _: Exception) -> Response:
        return ApiError(404, f"no route {request.method} {request.url.path}").response()

    @app.post("/v1/feedback")
    async def feedback(request: Request) -> Response:
        key = gateway.admit(request)
        record = parse_feedback(await _body(request), key.key_id)
        await asyncio.wrap_future(gateway.ingest.send_feedback(record))
        return _json({"feedback_id": record.feedback_id, "status": "recorded"})

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        key = gateway.admit(request)
        return _json({"object": "list", "data": _models(gateway, key)})

    @app.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> Response:
        key = gateway.admit(request)
        await gateway.address(name, key)
        return _json(_model(name))

    @app.get("/health")
    async def health() -> Response:
        ready = gateway.releases.ready
        return Response(
            b'{"ready":true}' if ready else b'{"ready":false}',
            200 if ready else 503,
            media_type="application/json",
        )

    return HotPath(gateway, app)


async def _chat(gateway: Gateway, request: Request) -> Response:
    key = gateway.admit(request)
    session = _session(request)
    body = await _body(request)
    ask = parse_chat(body)
    gateway.ingest.require_room()
    tools = () if ask.tool_choice == "none" else tuple(ask.tools or ())
    prompt_ids = await _encode(gateway, len(body), ask.messages, tools)
    return await gateway.reply(
        key,
        session,
        ask,
        ChatShape,
        prompt_ids=prompt_ids,
        messages=tuple(ask.messages),
        tools=tools,
        chat=True,
        max_tokens=ask.max_completion_tokens or ask.max_tokens,
        logprobs=bool(ask.logprobs),
        top_logprobs=ask.top_logprobs or 0,
    )


async def _completions(gateway: Gateway, request: Request) -> Response:
    key = gateway.admit(request)
    session = _session(request)
    ask = parse_completion(await _body(request))
    gateway.ingest.require_room()
    text, prompt_ids = _prompt(gateway, ask.prompt)
    return await gateway.reply(
        key,
        session,
        ask,
        CompletionShape,
        prompt_ids=prompt_ids,
        messages=({"role": "user", "content": text},),
        tools=(),
        chat=False,
        max_tokens=ask.max_tokens or 16,
        logprobs=ask.logprobs is not None,
        top_logprobs=ask.logprobs or 0,
    )


async def _body(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > BODY_MAX_BYTES:
            raise ApiError(413, f"a request has at most {BODY_MAX_BYTES >> 20} MiB")
    return b"".join(parts)


def _session(request: Request) -> str | None:
    session = request.headers.get("x-espalier-session")
    if session is None:
        return None
    if not 1 <= len(session) <= 256 or not session.isprintable():
        raise ApiError(
            400, "x-espalier-session has 1 to 256 printable characters", param="x-espalier-session"
        )
    return session


async def _encode(
    gateway: Gateway, size: int, messages: list[dict[str, Any]], tools: tuple[Any, ...]
) -> list[int]:
    try:
        if size <= _ENCODE_HERE_MAX_BYTES:
            return gateway.template.encode(messages, tools)
        return await asyncio.to_thread(gateway.template.encode, messages, tools)
    except RecordError as error:
        raise ApiError(400, error.message, param="messages") from error


def _prompt(gateway: Gateway, prompt: str | list[Any]) -> tuple[str, list[int]]:
    """Text and ids of a completion's prompt, which may be given as either."""
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        ids = gateway.template.encode_text(prompt)
    else:
        ids = prompt
        vocabulary = gateway.base.record.vocab_size
        if any(type(token) is not int or not 0 <= token < vocabulary for token in ids):
            raise ApiError(
                400,
                f"prompt must be one text, or token ids from 0 to {vocabulary - 1}",
                param="prompt",
            )
    if not ids:
        raise ApiError(400, "the prompt is empty", param="prompt")
    return prompt if isinstance(prompt, str) else gateway.template.decode(ids), ids


def _models(gateway: Gateway, key: Key) -> list[dict[str, Any]]:
    alias = gateway.settings.gateway.alias
    names = [alias]
    if key.exact:
        names += [f"{alias}@base", *(f"{alias}@{digest}" for digest in gateway.versions.resident)]
    return [_model(name) for name in names]


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "espalier"}


def _no_model(model: str, alias: str) -> ApiError:
    return ApiError(
        404,
        f"no model {model[:100]!r} here; ask for {alias!r}",
        param="model",
        code="model_not_found",
    )


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
