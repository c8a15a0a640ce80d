"""The console: pages over the same reading and acting as the API."""

from importlib import import_module
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError as InvalidRequest
from fastapi.responses import Response

from appliance.control.console.asking import page
from appliance.control.console.visits import Fields

__all__ = ["InvalidRequest", "routers", "session_ended", "sign_in_href", "what_is_wrong"]

_ROOMS = (
    "sign_in",
    "overview",
    "rounds",
    "review",
    "samples",
    "releases",
    "law",
    "people",
    "account",
    "trajectories",
    "talk",
    "suites",
)


def routers() -> list[APIRouter]:
    """The pages of every room."""
    return [import_module(f"{__name__}.pages.{room}").router for room in _ROOMS]


def sign_in_href(request: Request) -> str:
    """Where a browser without a session goes, to come back afterwards."""
    target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return "/sign-in" if target == "/" else f"/sign-in?next={quote(target)}"


def session_ended(request: Request) -> Response:
    """A form came after the session's end: nothing was done, and what was typed is shown."""
    fields: Fields | None = getattr(request.state, "fields", None)
    hidden = ("csrf", "passphrase", "new_passphrase", "again")
    typed = [pair for pair in fields.pairs if pair[0] not in hidden] if fields else []
    return page(request, "ended.html", status=401, title="Your session has ended", typed=typed)


def what_is_wrong(error: InvalidRequest) -> str:
    """The first thing that a request's address or query has wrong, in one sentence."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("query", "path"))
    return f"{where}: {first['msg']}"
