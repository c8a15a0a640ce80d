"""The control plane's HTTP API. The command line and, later, the console have no other way in.

People sign in with HTTP Basic (name and passphrase) for every act beyond health; the listener is
meant for loopback or a TLS terminator in front.
"""

import base64
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import sqlalchemy as sa
from fastapi import Depends, FastAPI, Request
from fastapi.responses import Response
from msgspec import Meta

from appliance.control import law, local_http, people, programs
from appliance.control.review import review, summary
from appliance.control.rounds import Rounds
from appliance.control.steps import Ground, approvals_of, ask_release, serving_now
from appliance.control.worker import start_round
from appliance.core import audit
from appliance.core.errors import (
    ConflictError,
    EspalierError,
    ForbiddenError,
    NotFoundError,
    PolicyError,
    RecordError,
    RefusedError,
    SignInError,
    UnavailableError,
    UsageError,
)
from appliance.core.records import Approval, encode
from appliance.core.tables import approvals
from policies.access import Act, require
from policies.lifecycle import State

_STATUS: list[tuple[type[EspalierError], int]] = [
    (NotFoundError, 404),
    (UsageError, 400),
    (PolicyError, 400),
    (SignInError, 401),
    (ForbiddenError, 403),
    (RefusedError, 422),
    (ConflictError, 409),
    (UnavailableError, 503),
]

Seconds = Annotated[float, Meta(ge=0, le=1e9)]


class _Person(msgspec.Struct, frozen=True):
    name: str
    role: str


class _RoundRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be asked of a round; None is what the settings say."""

    trajectories: Literal["new", "all"] = "new"
    idle_s: Seconds | None = None


def make_app(ground: Ground) -> FastAPI:
    """The API over one home."""
    app = FastAPI(title="Espalier control", docs_url=None, redoc_url=None)
    rounds = Rounds(ground.database)

    # Not async: Argon2 takes tens of milliseconds, so FastAPI runs it in a thread.
    def person(request: Request) -> _Person:
        name, passphrase = _credential(request.headers.get("authorization", ""))
        return _Person(name, people.sign_in(ground.database, name=name, passphrase=passphrase))

    Signed = Annotated[_Person, Depends(person)]  # noqa: N806 # a type

    @app.exception_handler(EspalierError)
    def refuse(_: Request, error: EspalierError) -> Response:
        status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
        answer = _json({"error": {"message": error.message, "next_step": error.next_step}}, status)
        if status == 401:
            answer.headers["www-authenticate"] = 'Basic realm="espalier"'
        return answer

    @app.get("/livez")
    def livez() -> Response:
        return _json({"ok": True})

    @app.get("/rounds")
    def list_rounds(who: Signed) -> Response:
        require(who.role, Act.VIEW)
        return _json([summary(ground, r) for r in rounds.all()])

    @app.post("/rounds")
    def create_round(body: dict[str, Any], who: Signed) -> Response:
        require(who.role, Act.START_ROUND)
        try:
            asked = msgspec.convert(body, _RoundRequest)
        except msgspec.ValidationError as error:
            raise UsageError(f"not an order for a round: {error}") from error
        made = start_round(
            ground, starter=who.name, trajectories=asked.trajectories, idle_s=asked.idle_s
        )
        return _json(summary(ground, made), 201)

    @app.get("/rounds/{number}")
    def show_round(number: int, who: Signed) -> Response:
        require(who.role, Act.VIEW)
        return _json(review(ground, rounds.get(number)))

    @app.post("/rounds/{number}/decision")
    def decide(number: int, body: dict[str, Any], who: Signed) -> Response:
        decision = body.get("decision")
        if decision not in ("approve", "reject"):
            raise UsageError(f"decision is approve or reject, got {decision!r}")
        require(who.role, Act.APPROVE if decision == "approve" else Act.REJECT)
        round_ = rounds.get(number)
        if round_.state is not State.AWAITING_APPROVAL:
            raise ConflictError(f"round {number} is {round_.state}, nothing waits for a decision")
        if round_.adapter is None or round_.scorecard is None:
            raise ConflictError(f"round {number} has no evaluated adapter")
        if body.get("adapter", round_.adapter) != round_.adapter:
            raise ConflictError(f"round {number} made {round_.adapter}, you decided about another")
        if decision == "approve" and who.name in round_.authors:
            raise ForbiddenError(
                f"{who.name} is an author of round {number}: nobody approves their own work",
                next_step=f"somebody else runs: espalier approve {number}",
            )
        approval = Approval(
            round=number,
            adapter=round_.adapter,
            scorecard=round_.scorecard,
            approver=who.name,
            decision=decision,
            comment=str(body.get("comment", "")),
            at=time.time(),
        )
        row = {
            "digest": approval.digest,
            "round": number,
            "adapter": approval.adapter,
            "approver": who.name,
            "record": encode(approval).decode(),
        }
        with ground.database.write() as connection:
            audit.record(
                connection,
                actor=who.name,
                act=f"round.{decision}",
                subject=str(number),
                at=approval.at,
                adapter=approval.adapter,
                comment=approval.comment,
            )
            try:
                connection.execute(sa.insert(approvals).values(row))
            except sa.exc.IntegrityError as error:
                raise ConflictError(f"{who.name} has already decided on round {number}") from error
        return _json(review(ground, rounds.get(number)))

    @app.post("/rounds/{number}/release")
    def release_again(number: int, who: Signed) -> Response:
        require(who.role, Act.RELEASE)
        round_ = rounds.get(number)
        if round_.state is not State.RELEASED:
            raise ConflictError(f"round {number} is {round_.state}, not an approved release")
        return _json(ask_release(ground, round_, actor=who.name))

    @app.post("/rollback")
    def rollback(body: dict[str, Any], who: Signed) -> Response:
        require(who.role, Act.ROLLBACK)
        return _json(_serving(ground, "/rollback", {"actor": who.name, **_reason(body)}))

    @app.post("/kill")
    def kill(body: dict[str, Any], who: Signed) -> Response:
        require(who.role, Act.KILL)
        return _json(_serving(ground, "/kill", {"actor": who.name, **_reason(body)}))

    @app.get("/law")
    def show_law(who: Signed) -> Response:
        require(who.role, Act.VIEW)
        return _json(msgspec.to_builtins(law.in_force(ground.database)))

    @app.put("/law/{kind}/{name}")
    def set_law(kind: str, name: str, body: dict[str, Any], who: Signed) -> Response:
        require(who.role, Act.CHANGE_LAW)
        text = body.get("text")
        if not isinstance(text, str):
            raise UsageError(f"text is the article's text, got {type(text).__name__}")
        if kind == "suite":
            _require_sound_suite(ground, name, text)
        entry = law.change(
            ground.database,
            ground.store,
            kind=kind,
            name=name,
            text=text.encode(),
            actor=who.name,
            at=time.time(),
        )
        return _json(msgspec.to_builtins(entry), 201)

    @app.delete("/law/{kind}/{name}")
    def repeal_law(kind: str, name: str, who: Signed) -> Response:
        require(who.role, Act.CHANGE_LAW)
        law.repeal(ground.database, kind=kind, name=name, actor=who.name, at=time.time())
        return _json({"repealed": f"{kind}/{name}"})

    @app.get("/status")
    def status(who: Signed) -> Response:
        require(who.role, Act.VIEW)
        past = rounds.all()
        waiting = [r.round for r in past if r.state is State.AWAITING_APPROVAL]
        return _json(
            {
                "serving": serving_now(ground),
                "alias": ground.settings.gateway.alias,
                "rounds": len(past),
                "waiting_for_approval": waiting,
                "decided": {n: len(approvals_of(ground.database, n)) for n in waiting},
            }
        )

    @app.get("/audit")
    def show_audit(who: Signed, after: int = 0, limit: int = 1000) -> Response:
        require(who.role, Act.VIEW)
        with ground.database.read() as connection:
            audit.verify(connection)
            found = audit.entries(connection, after=after, limit=limit)
        return _json(msgspec.to_builtins(found))

    return app


def _require_sound_suite(ground: Ground, name: str, text: str) -> None:
    """Read it as evaluation will: a round must not find out after it has trained.

    Raises:
        RecordError: evaluation would not take it, or not beside the suites in force.
    """
    with tempfile.TemporaryDirectory(prefix="suite-") as folder:
        path = Path(folder) / "suite.jsonl"
        path.write_text(text)
        verb = ("check", str(path), "--json")
        try:
            made = programs.run_now("appliance.evaluation", *verb, home=ground.home)
        except programs.ProgramError as error:
            why = error.message.removeprefix("espalier: ").replace(f"suite {path}", "the suite")
            raise RecordError(why, next_step=law.SUITE_HELP) from error
    for other in law.in_force(ground.database):
        if other.kind == "suite" and other.name != name:
            head = msgspec.json.decode(ground.store.get(other.object).splitlines()[0])
            if head.get("suite") == made["suite"]:
                raise RecordError(
                    f"a suite named {made['suite']!r} is in force as article {other.name!r}",
                    next_step=f"espalier law repeal suite {other.name!r}, or give this one "
                    "another name in its first line",
                )


def _credential(header: str) -> tuple[str, str]:
    """Name and passphrase of an HTTP Basic header, in UTF-8 (RFC 7617)."""
    scheme, _, encoded = header.partition(" ")
    try:
        pair = base64.b64decode(encoded, validate=True).decode()
    except ValueError:
        pair = ""
    name, colon, passphrase = pair.partition(":")
    if scheme.lower() != "basic" or not colon:
        raise SignInError(
            "sign in with your name and passphrase", next_step="--as NAME, or ESPALIER_AS"
        )
    return name, passphrase


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _reason(body: dict[str, Any]) -> dict[str, str]:
    reason = str(body.get("reason", "")).strip()
    if not reason:
        raise UsageError("say why: the reason goes into the audit log", next_step="--reason TEXT")
    return {"reason": reason}


def _serving(ground: Ground, route: str, body: dict[str, str]) -> Any:
    return local_http.over_socket(ground.home.socket("serving"), "POST", route, body)
