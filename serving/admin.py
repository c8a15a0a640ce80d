"""The private API on the ``serving`` socket: releases, people's feedback, health.

The control plane calls it. Whoever reaches the socket owns the home folder. Who the actor is, and
whether they may, control has decided; the approvals are checked here again.
"""

import asyncio
from typing import Any, TypeVar

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response

from appliance.core.errors import (
    AdapterError,
    ConflictError,
    EspalierError,
    NotFoundError,
    RecordError,
    RefusedError,
    UnavailableError,
    UsageError,
)
from serving.admission import ReleaseRequest
from serving.feedback import PersonsFeedback, make_feedback
from serving.gateway import Gateway
from serving.metrics import CONTENT_TYPE
from serving.openai_errors import ApiError

_STATUS: tuple[tuple[type[EspalierError], int], ...] = (
    (NotFoundError, 404),
    (UsageError, 400),
    (AdapterError, 422),
    (RefusedError, 422),
    (ConflictError, 409),
    (UnavailableError, 503),
)


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rollback or a kill: who, and why."""

    actor: str
    reason: str = ""
    alias: str = ""
    """Empty is the endpoint's own."""


T = TypeVar("T")


def build_admin(gateway: Gateway, address: tuple[str, int]) -> FastAPI:
    """The private routes."""
    app = FastAPI(title="Espalier serving", openapi_url=None, docs_url=None, redoc_url=None)
    releases = gateway.releases

    @app.exception_handler(EspalierError)
    async def on_error(_: Request, error: EspalierError) -> Response:
        status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
        body = {"message": error.message, "next_step": error.next_step}
        if isinstance(error, AdapterError):
            body["reason"] = error.reason
        return _json({"error": body}, status)

    @app.exception_handler(ApiError)
    async def on_api_error(_: Request, error: ApiError) -> Response:
        return _json({"error": {"message": error.message, "next_step": ""}}, error.status)

    @app.post("/feedback")
    async def feedback(request: Request) -> Response:
        """What a person says; the same feedback_id again is the same feedback."""
        asked = await _read(request, PersonsFeedback)
        record = make_feedback(asked, asked.actor)
        await asyncio.wrap_future(gateway.ingest.send_feedback(record))
        await gateway.metrics.count_feedback(record)
        gateway.aliases.heard(record)
        return _json({"feedback_id": record.feedback_id, "status": "recorded"})

    @app.get("/releases")
    async def journal(alias: str = "") -> Response:
        """What an alias means, what is tried out for it, and how it came to that."""
        asked = gateway.aliases.get(alias)
        history = await asked.releases.history()
        now = history[0] if history else None
        return _json(
            {
                "alias": asked.name,
                "aliases": [alias.name for alias in gateway.aliases],
                "generation": now.generation if now else 0,
                "adapter": now.adapter if now else None,
                "previous": now.previous if now else None,
                "reason": now.reason if now else None,
                "rollout": asked.canary.shown(),
                "resident": gateway.versions.resident,
                "history": [msgspec.to_builtins(entry) for entry in history],
            }
        )

    @app.post("/release")
    async def release(request: Request) -> Response:
        asked = await _read(request, ReleaseRequest)
        return _json(await gateway.aliases.get(asked.alias).releases.release(asked))

    @app.post("/rollback")
    async def rollback(request: Request) -> Response:
        order = await _read(request, Order)
        alias = gateway.aliases.get(order.alias)
        return _json(await alias.releases.rollback(actor=order.actor, reason=order.reason))

    @app.post("/kill")
    async def kill(request: Request) -> Response:
        order = await _read(request, Order)
        alias = gateway.aliases.get(order.alias)
        return _json(await alias.releases.kill(actor=order.actor, reason=order.reason))

    @app.post("/keys/reload")
    async def reload() -> Response:
        """Take keys, limits, pauses and kills as the database has them, at once."""
        await gateway.reload()
        return _json({})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(gateway.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/health")
    async def health() -> Response:
        """200 once the alias can be served; 503 with the reason until then."""
        body = {
            "ready": releases.ready,
            "gateway": list(address),
            "requests": msgspec.to_builtins(gateway.counts),
            "ingest": {
                **msgspec.to_builtins(gateway.ingest.counts),
                "problem": gateway.ingest.problem,
            },
            "resident": gateway.versions.resident,
            "under_way": gateway.versions.uses,
        }
        if releases.ready:
            return _json(body)
        problem = {"message": releases.problem, "next_step": "read logs/serving.log"}
        return _json({**body, "error": problem}, 503)

    return app


async def _read(request: Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"not a {kind.__name__}: {error}") from error


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
