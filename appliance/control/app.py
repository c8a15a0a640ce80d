"""The control plane over HTTP: the API under ``/api``, the console beside it, a guard before both.

People sign in to the API with HTTP Basic or a token, to the console with a session; the listener
is meant for loopback or a TLS terminator in front.
"""

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from appliance.control import api, console
from appliance.control.api.asking import Signed, answer, refusal, status_of
from appliance.control.console.asking import error_page
from appliance.control.console.guard import Guard
from appliance.control.console.render import STATIC
from appliance.control.console.visits import Changes, SignInFirst, Unchanged
from appliance.control.people import Passphrases
from appliance.control.reading.pulse import PulseTaker
from appliance.control.sessions import Sessions
from appliance.control.steps import Ground
from appliance.core.errors import EspalierError, NotFoundError, UsageError
from policies.access import Act


class _Assets(StaticFiles):
    """Files whose addresses change with their content: a browser may keep them for ever."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        made = super().file_response(*args, **kwargs)  # type: ignore[arg-type] # passed through
        made.headers["cache-control"] = "public, max-age=31536000, immutable"
        return made


def make_app(ground: Ground) -> ASGIApp:
    """The API and the console over one home."""
    app = FastAPI(
        title="Espalier control", version="1", openapi_url=None, docs_url=None, redoc_url=None
    )
    control = ground.settings.control
    app.state.ground = ground
    app.state.passphrases = Passphrases(ground.database)
    app.state.sessions = Sessions(
        ground.database, idle_s=control.idle_minutes * 60, most_s=control.session_hours * 3600
    )
    app.state.changes = Changes(ground.database.path)
    app.state.pulse = PulseTaker(ground)
    for router in api.routers():
        app.include_router(router, prefix="/api")
    for router in console.routers():
        app.include_router(router, include_in_schema=False)
    app.mount("/static", _Assets(directory=STATIC), name="static")

    @app.get("/livez", tags=["health"])
    async def livez() -> Response:
        """Whether the control plane answers."""
        return answer({"ok": True})

    @app.get("/api/openapi.json", include_in_schema=False)
    def openapi(who: Signed) -> Response:
        who.require(Act.VIEW)
        return answer(app.openapi())

    @app.exception_handler(EspalierError)
    def refuse(request: Request, error: EspalierError) -> Response:
        if _is_api(request):
            return refusal(error)
        try:
            return error_page(request, error)
        except (EspalierError, SQLAlchemyError):
            # A page needs the database; without it the words alone.
            return Response(f"{error}\n", status_of(error), media_type="text/plain")

    @app.exception_handler(HTTPException)
    def no_route(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return refuse(request, NotFoundError(f"no page {request.url.path[:200]}"))
        wrong = answer(
            {"error": {"message": str(error.detail), "next_step": ""}}, error.status_code
        )
        wrong.headers.update(error.headers or {})
        return wrong

    @app.exception_handler(console.InvalidRequest)
    def invalid(request: Request, error: console.InvalidRequest) -> Response:
        return refuse(request, UsageError(console.what_is_wrong(error)))

    @app.exception_handler(Exception)
    def broken(request: Request, error: Exception) -> Response:
        # Starlette logs it, with its traceback, after this has been sent.
        fault = EspalierError(
            f"the control plane has a fault: {type(error).__name__}",
            next_step="nothing was lost; logs/control.log says more",
        )
        return refuse(request, fault)

    @app.exception_handler(SignInFirst)
    def sign_in_first(request: Request, _: SignInFirst) -> Response:
        if request.method == "GET":
            return RedirectResponse(console.sign_in_href(request), 303)
        return console.session_ended(request)

    @app.exception_handler(Unchanged)
    def unchanged(request: Request, _: Unchanged) -> Response:
        return Response(status_code=304, headers={"etag": request.state.etag})

    return Guard(app, control)


def _is_api(request: Request) -> bool:
    return request.url.path.startswith("/api/") or request.url.path == "/livez"
