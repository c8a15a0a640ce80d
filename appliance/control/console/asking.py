"""What the pages share: who reads, what was sent, and how a page is made."""

from typing import Any
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from appliance.control.api.asking import Before, Here, Number, here, status_of
from appliance.control.console import nav
from appliance.control.console.notices import notice_of
from appliance.control.console.render import render, version
from appliance.control.console.visits import (
    THEME,
    Fields,
    Form,
    Reader,
    Signer,
    session_of,
)
from appliance.core.errors import EspalierError, SignInError

__all__ = ["Before", "Form", "Here", "Number", "Reader", "Signer", "page", "see_other"]

_HIDDEN = ("csrf", "passphrase", "new_passphrase", "again")


def page(request: Request, template: str, *, status: int = 200, **context: Any) -> Response:
    """A page: `context` and what every page shows (person, navigation, theme, notice)."""
    session = session_of(request)
    ground = here(request)
    theme = request.cookies.get(THEME, "auto")
    body = render(
        template,
        **{
            "person": session.person if session else None,
            "csrf": session.csrf if session else "",
            "nav": nav.links(ground, request.url.path) if session else [],
            "alias": ground.settings.gateway.alias,
            "theme": theme if theme in ("light", "dark") else "auto",
            "notice": notice_of(request.query_params.get("notice", "")),
            "version": version(),
            "path": request.url.path,
            "live": False,
            **context,
        },
    )
    made = Response(body, status, media_type="text/html")
    etag = getattr(request.state, "etag", None)
    if etag is not None and status == 200:
        made.headers["etag"] = etag
        made.headers["cache-control"] = "private, no-cache"
    return made


def see_other(href: str, *, notice: str = "") -> Response:
    """After a form: go and look. `notice` is a key of `notices`."""
    joint = "&" if "?" in href else "?"
    return RedirectResponse(f"{href}{joint}notice={quote(notice)}" if notice else href, 303)


def error_page(request: Request, error: EspalierError) -> Response:
    """What went wrong and what to do about it. What was typed is not lost: it stands below."""
    fields: Fields | None = getattr(request.state, "fields", None)
    typed = [pair for pair in fields.pairs if pair[0] not in _HIDDEN] if fields else []
    again = isinstance(error, SignInError) and fields is not None
    status = status_of(error)
    return page(
        request,
        "error.html",
        # 401 would ask for HTTP Basic; the form below asks for the passphrase.
        status=403 if status == 401 else status,
        title=_TITLES.get(status, "That did not work"),
        error=error,
        typed=typed,
        again=request.url.path if again else None,
    )


_TITLES = {
    400: "That is not quite right",
    401: "The signature is missing",
    403: "You may not do this",
    404: "There is no such thing here",
    409: "Somebody, or something, was first",
    422: "The law says no",
    429: "Wait a little",
    500: "A fault of ours",
    503: "A part does not answer",
}
