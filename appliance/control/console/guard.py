"""What stands before every route: which host names are answered, how big a body may be, and the
headers that keep a browser from doing what a page did not mean.
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from appliance.control.api.asking import BODY_MAX_BYTES, answer
from appliance.core.settings import Control

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_EVERYWHERE = frozenset({"0.0.0.0", "::", ""})

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not no-referrer: with it, browsers send `Origin: null` along with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}


class Guard:
    """ASGI middleware around the whole control plane."""

    def __init__(self, app: ASGIApp, control: Control) -> None:
        self._app = app
        self._hosts = answered_hosts(control)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse. ASGI calls this."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = self._refuse(Request(scope))
        if refused is not None:
            await refused(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "private, no-store")
            await send(message)

        await self._app(scope, receive, send_guarded)

    def _refuse(self, request: Request) -> Response | None:
        host = host_of(request.headers)
        if host not in self._hosts:
            shown = host[:100] or "(none)"
            return _refusal(
                request,
                400,
                f"this control plane does not answer to the host name {shown!r}",
                f'if people type that name, set [control] url = "http://{shown}" in espalier.toml',
            )
        if "transfer-encoding" in request.headers:
            return _refusal(request, 411, "a request says how long it is", "send Content-Length")
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > BODY_MAX_BYTES:
            most = BODY_MAX_BYTES >> 20
            return _refusal(request, 413, f"a request has at most {most} MiB", "send less")
        return None


def answered_hosts(control: Control) -> frozenset[str]:
    """The host names that are answered: others may be a page elsewhere that rebound its name."""
    named = {urlsplit(control.url).hostname or "", control.host.lower()}
    return _LOOPBACK | (named - _EVERYWHERE)


def host_of(headers: Headers) -> str:
    """The Host header without its port, in lower case; empty where there is none, or no host."""
    given = headers.getlist("host")
    if len(given) != 1:
        return ""
    try:
        return urlsplit(f"//{given[0]}").hostname or ""
    except ValueError:
        return ""


def is_own_origin(headers: Headers) -> bool:
    """Whether the browser says that the request comes from a page of ours.

    Browsers send Origin with every POST; a request without it is not from a form of ours.
    """
    try:
        origin = urlsplit(headers.get("origin", "")).netloc
    except ValueError:
        return False
    return bool(origin) and origin == headers.get("host", "")


def _refusal(request: Request, status: int, message: str, next_step: str) -> Response:
    if request.url.path.startswith("/api"):
        return answer({"error": {"message": message, "next_step": next_step}}, status)
    return Response(f"{message}\nnext: {next_step}\n", status, media_type="text/plain")
