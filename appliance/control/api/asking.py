"""What the routes of the API share: who asks, what they send, how it is answered."""

import base64
import time
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Depends, Path, Query, Request
from fastapi.responses import Response

from appliance.control import tokens
from appliance.control.identity import Person
from appliance.control.people import Passphrases
from appliance.control.steps import Ground
from appliance.core.errors import (
    ConflictError,
    EspalierError,
    ForbiddenError,
    IntegrityError,
    LockedOutError,
    NotFoundError,
    PolicyError,
    RecordError,
    RefusedError,
    SignInError,
    UnavailableError,
    UsageError,
)

BODY_MAX_BYTES = 32 << 20

_STATUS: list[tuple[type[EspalierError], int]] = [
    (NotFoundError, 404),
    (UsageError, 400),
    (PolicyError, 400),
    (SignInError, 401),
    (LockedOutError, 429),
    (ForbiddenError, 403),
    (RefusedError, 422),
    (ConflictError, 409),
    (IntegrityError, 409),
    (UnavailableError, 503),
]
_SIGN_IN = "--as NAME, or ESPALIER_AS"

T = TypeVar("T")


def status_of(error: EspalierError) -> int:
    """The HTTP status that an error of ours stands for."""
    return next((code for kind, code in _STATUS if isinstance(error, kind)), 500)


def answer(value: Any, status: int = 200) -> Response:
    """JSON."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def refusal(error: EspalierError) -> Response:
    """An error as JSON: its message and the next step."""
    body = {"error": {"message": error.message, "next_step": error.next_step}}
    refused = answer(body, status_of(error))
    if refused.status_code == 401:
        refused.headers["www-authenticate"] = 'Basic realm="espalier", Bearer'
    return refused


def here(request: Request) -> Ground:
    """The home that this control plane is of."""
    ground: Ground = request.app.state.ground
    return ground


def source_of(request: Request) -> str:
    """The address that a request came from; behind a proxy, the proxy's."""
    return request.client.host if request.client else ""


# Not async: Argon2 takes tens of milliseconds, so FastAPI runs it in a thread.
def signed_in(request: Request) -> Person:
    """Who asks: HTTP Basic (name and passphrase), or a token.

    Raises:
        SignInError: neither came, or it is wrong.
        LockedOutError: too many wrong passphrases.
    """
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        database = here(request).database
        return tokens.bearer(database, credential.strip(), at=time.time())
    name, passphrase = _pair(scheme, credential)
    passphrases: Passphrases = request.app.state.passphrases
    source = source_of(request)
    return passphrases.sign_in(name=name, passphrase=passphrase, at=time.time(), source=source)


Number = Annotated[int, Path(ge=0, lt=2**31)]
"""Of a round, a proposal, a generation: in the address."""
Before = Annotated[int | None, Query(ge=0, lt=2**62)]
"""Where the page before ended."""

Here = Annotated[Ground, Depends(here)]
Signed = Annotated[Person, Depends(signed_in)]


def body_of(kind: type[T]) -> Callable[[Request], Any]:
    """A dependency: the request's body, as this struct.

    Raises:
        RecordError: it is not.
    """

    async def read(request: Request) -> T:
        data = await request.body()
        try:
            return msgspec.json.decode(data or b"{}", type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RecordError(f"not {_called(kind)}: {error}") from error

    return read


def takes(kind: type[Any]) -> dict[str, Any]:
    """What a route's decorator says of a body of this struct, for the OpenAPI document."""
    schema, parts = msgspec.json.schema_components([kind], ref_template="#/x/{name}")
    name = schema[0]["$ref"].rpartition("/")[2]
    content = {"application/json": {"schema": _inlined(parts[name], parts)}}
    return {"openapi_extra": {"requestBody": {"required": True, "content": content}}}


def _inlined(schema: Any, parts: dict[str, Any]) -> Any:
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(parts[schema["$ref"].rpartition("/")[2]], parts)
        return {key: _inlined(value, parts) for key, value in schema.items()}
    return [_inlined(one, parts) for one in schema] if isinstance(schema, list) else schema


def _called(kind: type[Any]) -> str:
    return (kind.__doc__ or kind.__name__).split("\n")[0].rstrip(".").lower()


def _pair(scheme: str, encoded: str) -> tuple[str, str]:
    """Name and passphrase of an HTTP Basic header, in UTF-8 (RFC 7617)."""
    try:
        pair = base64.b64decode(encoded, validate=True).decode()
    except ValueError:
        pair = ""
    name, colon, passphrase = pair.partition(":")
    if scheme.lower() != "basic" or not colon:
        raise SignInError("sign in with your name and passphrase", next_step=_SIGN_IN)
    return name, passphrase
