"""Rounds: the list, one on its way, starting, ending and revising them, and the signature."""

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from appliance.control.acting import decisions
from appliance.control.acting import rounds as acting
from appliance.control.console.asking import (
    Before,
    Form,
    Here,
    Number,
    Reader,
    Signer,
    page,
    see_other,
)
from appliance.control.reading import rounds as reading
from appliance.core.errors import RecordError

router = APIRouter()
_SIGNED = ("decision", "comment", "adapter", "scorecard", "order")


@router.get("/rounds")
def rounds(request: Request, here: Here, who: Reader, before: Before = None) -> Response:
    """Every round, newest first."""
    found = reading.page(here, who, before)
    return page(
        request, "rounds.html", title="Rounds", found=found, first=before is None, live=True
    )


@router.post("/rounds")
def start(here: Here, who: Reader, form: Form) -> Response:
    """Start a round."""
    wanted: dict[str, Any] = {"trajectories": form.get("trajectories", "new")}
    if form.get("idle_s", "").strip():
        wanted["idle_s"] = form["idle_s"]
    try:
        ask = msgspec.convert(wanted, acting.Start, strict=False)
    except msgspec.ValidationError as error:
        raise RecordError(f"not an order for a round: {error}") from error
    made = acting.start(here, who, ask)
    return see_other(f"/rounds/{made.round}", notice="started")


@router.get("/rounds/{number}")
def round_(request: Request, number: Number, here: Here, who: Reader) -> Response:
    """One round on its way."""
    found = reading.detail(here, who, number)
    return page(
        request, "round.html", title=f"Round {number}", found=found,
        live=not found.round.state.terminal,
    )  # fmt: skip


@router.post("/rounds/{number}/decision")
def decide(number: Number, here: Here, who: Signer, form: Form) -> Response:
    """Sign: approve, request changes or reject, exactly the candidate that the page showed."""
    wanted = {name: form.get(name, "") for name in _SIGNED}
    try:
        ask = msgspec.convert(wanted, decisions.Decision)
    except msgspec.ValidationError as error:
        raise RecordError(f"not a decision: {error}") from error
    made = decisions.decide(here, who, number, ask)
    return see_other(f"/rounds/{number}/history", notice=made.decision)


@router.post("/rounds/{number}/cancel")
def cancel(number: Number, here: Here, who: Reader, form: Form) -> Response:
    """End a round before its verdict."""
    acting.cancel(here, who, number, acting.Why(reason=form.get("reason", "")))
    return see_other(f"/rounds/{number}", notice="cancelled")


@router.post("/rounds/{number}/revise")
def revise(number: Number, here: Here, who: Reader, form: Form) -> Response:
    """Make the candidate again under the law now in force."""
    acting.revise(here, who, number, acting.Why(reason=form.get("reason", "")))
    return see_other(f"/rounds/{number}", notice="revised")
