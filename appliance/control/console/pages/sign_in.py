"""Signing in and out, and the theme."""

import time
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response

from appliance.control import people
from appliance.control.api.asking import Here, source_of
from appliance.control.console.asking import Form, page, see_other
from appliance.control.console.visits import (
    COOKIE,
    THEME,
    Fields,
    fields_of,
    read_fields,
    session_of,
)
from appliance.control.people import Passphrases
from appliance.control.sessions import Sessions
from appliance.core.errors import ForbiddenError

router = APIRouter()
_YEAR_S = 365 * 86_400


@router.get("/sign-in")
def ask(request: Request, here: Here, next: str = "/") -> Response:  # noqa: A002 # in the address
    """The door."""
    if session_of(request) is not None:
        return RedirectResponse(_inside(next), 303)
    return page(
        request,
        "sign_in.html",
        title="Sign in",
        next=_inside(next),
        name="",
        error=None,
        nobody=people.count(here.database) == 0,
    )


@router.post("/sign-in")
def sign_in(request: Request, here: Here, form: Fields = Depends(read_fields)) -> Response:  # noqa: B008 # FastAPI's way
    """Check the passphrase and open a session, under a new cookie."""
    passphrases: Passphrases = request.app.state.passphrases
    sessions: Sessions = request.app.state.sessions
    name, target = form.get("name", "").strip(), _inside(form.get("next", "/"))
    at = time.time()
    try:
        given, source = form.get("passphrase", ""), source_of(request)
        person = passphrases.sign_in(name=name, passphrase=given, at=at, source=source)
    except ForbiddenError as error:
        return page(
            request, "sign_in.html", status=403, title="Sign in", next=target, name=name,
            error=error, nobody=people.count(here.database) == 0,
        )  # fmt: skip
    if old := request.cookies.get(COOKIE):
        sessions.close(old, at=at)
    answer = RedirectResponse(target, 303)
    answer.set_cookie(
        COOKIE,
        sessions.open(person, at=at),
        httponly=True,
        samesite="strict",
        secure=_is_https(here.settings.control.url),
        path="/",
    )
    return answer


@router.post("/sign-out", dependencies=[Depends(fields_of)])
def sign_out(request: Request) -> Response:
    """End the session: its cookie is worth nothing from here on."""
    sessions: Sessions = request.app.state.sessions
    sessions.close(request.cookies.get(COOKIE, ""), at=time.time())
    answer = see_other("/sign-in", notice="signed-out")
    answer.delete_cookie(COOKIE, path="/")
    answer.headers["clear-site-data"] = '"cache"'
    return answer


@router.post("/theme")
def choose_theme(request: Request, here: Here, form: Form) -> Response:
    """Light, dark, or as the system says."""
    answer = RedirectResponse(_path_of(request.headers.get("referer", "/")), 303)
    theme = form.get("theme", "auto")
    if theme in ("light", "dark"):
        secure = _is_https(here.settings.control.url)
        answer.set_cookie(THEME, theme, max_age=_YEAR_S, samesite="strict", secure=secure)
    else:
        answer.delete_cookie(THEME)
    return answer


def _inside(target: str) -> str:
    """A path of ours; the overview for anything that leads out."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return "/"
    plain = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if plain and not parts.scheme and not parts.netloc else "/"


def _path_of(referer: str) -> str:
    try:
        return _inside(urlsplit(referer).path or "/")
    except ValueError:
        return "/"


def _is_https(url: str) -> bool:
    return urlsplit(url).scheme == "https"
