"""Errors in Anthropic's shape, and which requests get them."""

from typing import Any

import msgspec
from fastapi import Request
from fastapi.responses import Response

from serving.openai_errors import ApiError

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def speaks_anthropic(request: Request) -> bool:
    """Whether a request's answer is to be in Anthropic's shape."""
    return request.url.path.startswith("/v1/messages") or "anthropic-version" in request.headers


def error_body(error: ApiError) -> dict[str, Any]:
    """The JSON that Anthropic's clients parse, in an answer as well as in a stream."""
    message = f"{error.param}: {error.message}" if error.param else error.message
    kind = _KINDS.get(error.status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


def refuse(request: Request, error: ApiError) -> Response:
    """The HTTP answer to a request that is refused, in the shape of its protocol."""
    if not speaks_anthropic(request):
        return error.response()
    body = msgspec.json.encode(error_body(error))
    return Response(body, error.status, error.headers, media_type="application/json")
