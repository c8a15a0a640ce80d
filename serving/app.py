"""The gateway's public API, assembled: which route is whose.

The hot path parses JSON once and knows no middleware. What is not here: releases (releases.py) and
the private API (admin.py).
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from appliance.core.errors import EspalierError
from serving.anthropic import routes as anthropic
from serving.anthropic.errors import refuse, speaks_anthropic
from serving.feedback import parse_feedback
from serving.gateway import Gateway
from serving.metrics import CONTENT_TYPE
from serving.openai import routes as openai
from serving.openai_errors import ApiError, from_espalier
from serving.reading import read_body
from serving.under_way import Place

_LOOPBACK = ("127.0.0.1", "::1")

Route = Callable[[Gateway, Place, Request], Awaitable[Response]]

HOT_ROUTES: dict[str, Route] = {
    "/v1/chat/completions": openai.chat,
    "/v1/completions": openai.completions,
    "/v1/responses": openai.responses,
    "/v1/messages": anthropic.messages,
    "/v1/messages/count_tokens": anthropic.count_tokens,
}

_ROUTES = frozenset({*HOT_ROUTES, "/v1/feedback", "/v1/models"})
_VERSIONS = re.compile(r"^(/v1)*(?=/)")
"""What stands before a route's own name, however often."""


class HotPath:
    """Answers the routes that carry the traffic; all else goes on to the FastAPI behind it.

    They need nothing of what FastAPI does around a route: dependencies, exit stacks, middleware.
    What the gateway costs: benchmarks/gateway.py.
    """

    def __init__(self, gateway: Gateway, app: FastAPI) -> None:
        self._gateway = gateway
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. ASGI calls this."""
        route = HOT_ROUTES.get(scope["path"]) if scope["type"] == "http" else None
        if route is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            with self._gateway.enter(request, route.__name__) as place:
                answer = await route(self._gateway, place, request)
                await answer(scope, receive, send)
        except ApiError as error:
            await refuse(request, error)(scope, receive, send)
        except EspalierError as error:
            await refuse(request, from_espalier(error))(scope, receive, send)


def build_app(gateway: Gateway) -> HotPath:
    """The public routes. Their schema stays private: clients know OpenAI's and Anthropic's."""
    app = FastAPI(title="Espalier gateway", openapi_url=None, docs_url=None, redoc_url=None)

    @app.exception_handler(ApiError)
    async def on_api_error(request: Request, error: ApiError) -> Response:
        return refuse(request, error)

    @app.exception_handler(EspalierError)
    async def on_our_error(request: Request, error: EspalierError) -> Response:
        return refuse(request, from_espalier(error))

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def on_no_route(request: Request, _: Exception) -> Response:
        message = f"no route {request.method} {request.url.path}{_base_url_hint(request)}"
        return refuse(request, ApiError(404, message))

    @app.post("/v1/feedback")
    async def feedback(request: Request) -> Response:
        key = gateway.admit(request)
        gateway.quota.count_request(key)
        record = parse_feedback(await read_body(request), key.key_id)
        await asyncio.wrap_future(gateway.ingest.send_feedback(record))
        await gateway.metrics.count_feedback(record)
        gateway.aliases.heard(record)
        return _json({"feedback_id": record.feedback_id, "status": "recorded"})

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        names = await gateway.models(gateway.admit(request))
        protocol = anthropic if speaks_anthropic(request) else openai
        return _json(protocol.models(names))

    @app.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> Response:
        key = gateway.admit(request)
        gateway.quota.count_request(key)
        adapter = await gateway.address(name, key)
        protocol = anthropic if speaks_anthropic(request) else openai
        answer = _json(protocol.model(name))
        # What it means now: an alias can be looked up without a completion.
        answer.headers["x-espalier-adapter"] = adapter or "base"
        return answer

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        require_reader(gateway, request)
        return Response(gateway.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/livez")
    async def livez() -> Response:
        """The process answers."""
        return Response(b"ok\n", media_type="text/plain")

    @app.get("/readyz")
    async def readyz() -> Response:
        """The alias can be served; until then, why not."""
        ready = gateway.releases.ready
        reason = "ok" if ready else gateway.releases.problem
        return Response(f"{reason}\n", 200 if ready else 503, media_type="text/plain")

    @app.get("/health")
    async def health() -> Response:
        ready = gateway.releases.ready
        return Response(
            b'{"ready":true}' if ready else b'{"ready":false}',
            200 if ready else 503,
            media_type="application/json",
        )

    return HotPath(gateway, app)


def _base_url_hint(request: Request) -> str:
    """What to set where the path is one of ours but for a ``/v1`` too few or too many."""
    meant = _VERSIONS.sub("/v1", request.url.path, count=1)
    known = meant in _ROUTES or meant.startswith("/v1/models/")
    if not known or meant == request.url.path:
        return ""
    root = str(request.base_url).rstrip("/")
    # Anthropic's clients put /v1 in front themselves, OpenAI's do not.
    if meant.startswith("/v1/messages") or "anthropic-version" in request.headers:
        return f"; it is {meant}: set the base URL to {root} (ANTHROPIC_BASE_URL)"
    return f"; it is {meant}: set the base URL to {root}/v1 (OPENAI_BASE_URL)"


def require_reader(gateway: Gateway, request: Request) -> None:
    """Raise unless the metrics may be read: from this machine itself, or with a key for it.

    Raises:
        ApiError: 401 without a good key, 403 with one that may not.
    """
    peer = request.client.host if request.client else ""
    forwarded = "forwarded" in request.headers or "x-forwarded-for" in request.headers
    # Behind a proxy on this machine everybody comes from here.
    if peer in _LOOPBACK and not forwarded:
        return
    if not gateway.admit(request).metrics:
        raise ApiError(
            403,
            "this key may not read /metrics: espalier key add --metrics",
            kind="permission_error",
        )


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
