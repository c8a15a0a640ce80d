"""Errors in OpenAI's shape, so that the clients that agents have already understand them."""

from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi.responses import Response

from appliance.core.errors import (
    ConflictError,
    EspalierError,
    ForbiddenError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    UsageError,
)

RETRY_AFTER_S = 1

_STATUS: tuple[tuple[type[EspalierError], int, str], ...] = (
    (NotFoundError, 404, "invalid_request_error"),
    (UsageError, 400, "invalid_request_error"),
    (ForbiddenError, 403, "permission_error"),
    (RefusedError, 403, "permission_error"),
    (ConflictError, 409, "conflict_error"),
    (UnavailableError, 503, "service_unavailable"),
)


class ApiError(Exception):
    """A refusal that goes to the client: status, type, message, the parameter at fault, a code."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers or {})
        if status == 503:
            self.headers.setdefault("retry-after", str(RETRY_AFTER_S))

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body that OpenAI's clients parse."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> Response:
        """The HTTP answer; a 429 or 503 says when to come again."""
        return Response(
            msgspec.json.encode(self.body), self.status, self.headers, media_type="application/json"
        )


def unsupported(param: str, expected: str, got: object, *, at: str = "") -> ApiError:
    """For what the protocol knows and we do not have; `at` is the place within `param`."""
    return ApiError(
        400,
        f"{at or param}: expected {expected}, got {got!r:.100}; nothing else is supported here",
        param=param,
    )


def from_espalier(error: EspalierError) -> ApiError:
    """What a client is told of an error of ours. Integrity and policy errors are ours: 500."""
    for family, status, kind in _STATUS:
        if isinstance(error, family):
            return ApiError(status, str(error), kind=kind)
    return ApiError(500, str(error), kind="server_error")
