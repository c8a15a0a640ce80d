"""Suites, their past, and proposals to change protected ones."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import Response
from msgspec import Meta

from appliance.control.acting import proposals as deciding
from appliance.control.acting import suites as acting
from appliance.control.api.asking import Here, Signed, answer, body_of, takes
from appliance.control.reading import suite_history, suites

router = APIRouter(tags=["suites"])

Place = Annotated[int, Query(ge=0, le=2**62)]
Number = Annotated[int, Path(ge=0, le=2**62)]


class Decision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is said about a proposal."""

    reason: Annotated[str, Meta(max_length=1000)] = ""


@router.get("/suites")
def list_suites(here: Here, who: Signed) -> Response:
    """Every suite in force."""
    return answer(suites.in_force(here, who))


@router.post("/suites/keep", status_code=201, **takes(acting.Keep))
def keep(
    here: Here, who: Signed, ask: Annotated[acting.Keep, Depends(body_of(acting.Keep))]
) -> Response:
    """Keep a test in a living suite; in a protected one, propose it (202)."""
    kept = acting.keep(here, who, ask)
    return answer(kept, 202 if kept.proposed is not None else 201 if kept.added else 200)


@router.get("/suites/{name}")
def show_suite(name: str, here: Here, who: Signed, after: Place = 0) -> Response:
    """One suite in force, and 50 of its items from place `after` + 1 on."""
    shown = {
        "suite": suites.one(here, who, name),
        "items": suites.items(here, who, name, after=after),
    }
    return answer(shown)


@router.get("/suites/{name}/items/{item_id}")
def show_item(name: str, item_id: str, here: Here, who: Signed) -> Response:
    """One item, whole."""
    return answer(suites.item(here, who, name, item_id))


@router.get("/suites/{name}/history")
def show_history(name: str, here: Here, who: Signed, before: Place | None = None) -> Response:
    """Changes, newest first, 50 at a time."""
    return answer(suite_history.history(here, who, name, before=before))


@router.get("/suites/{name}/difference")
def show_difference(name: str, here: Here, who: Signed, old: str = "", new: str = "") -> Response:
    """What changed between two versions, by their digests."""
    return answer(suite_history.difference(here, who, name, old, new))


@router.get("/proposals")
def list_proposals(here: Here, who: Signed) -> Response:
    """Proposals that wait for an approver."""
    return answer(suite_history.open_proposals(here, who))


@router.get("/proposals/{number}")
def show_proposal(number: Number, here: Here, who: Signed) -> Response:
    """One proposal."""
    return answer(suite_history.proposal(here, who, number))


@router.post("/proposals/{number}/accept")
def accept(number: Number, here: Here, who: Signed) -> Response:
    """Put a proposed change in force. A signature, and not the proposer's."""
    return answer(deciding.accept(here, who, number))


@router.post("/proposals/{number}/decline", **takes(Decision))
def decline(
    number: Number,
    here: Here,
    who: Signed,
    ask: Annotated[Decision, Depends(body_of(Decision))],
) -> Response:
    """Say no to a proposed change, or take one's own back."""
    deciding.decline(here, who, number, reason=ask.reason)
    return answer(suite_history.proposal(here, who, number))
