"""Rounds: list, start, look at, decide, end, revise."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response

from appliance.control.acting import decisions, rounds, serving
from appliance.control.api.asking import Before, Here, Number, Signed, answer, body_of, takes
from appliance.control.reading.words import reviewed, summarised
from appliance.control.rounds import Rounds
from policies.access import Act

router = APIRouter(tags=["rounds"])


@router.get("/rounds")
def list_rounds(
    here: Here,
    who: Signed,
    before: Before = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """Rounds, newest first, of numbers below `before`."""
    who.require(Act.VIEW)
    found = Rounds(here.database).some(before=before, limit=limit)
    return answer([summarised(here, who, one) for one in found])


@router.post("/rounds", status_code=201, **takes(rounds.Start))
def start(
    here: Here, who: Signed, ask: Annotated[rounds.Start, Depends(body_of(rounds.Start))]
) -> Response:
    """Start a round."""
    return answer(summarised(here, who, rounds.start(here, who, ask)), 201)


@router.get("/rounds/{number}")
def show(number: Number, here: Here, who: Signed) -> Response:
    """Everything about a round."""
    who.require(Act.VIEW)
    return answer(reviewed(here, who, Rounds(here.database).get(number)))


@router.post("/rounds/{number}/decision", **takes(decisions.Decision))
def decide(
    number: Number,
    here: Here,
    who: Signed,
    ask: Annotated[decisions.Decision, Depends(body_of(decisions.Decision))],
) -> Response:
    """Approve, request changes, or reject. Needs the passphrase: a token is refused."""
    decisions.decide(here, who, number, ask)
    return answer(reviewed(here, who, Rounds(here.database).get(number)))


@router.post("/rounds/{number}/cancel", **takes(rounds.Why))
def cancel(
    number: Number,
    here: Here,
    who: Signed,
    ask: Annotated[rounds.Why, Depends(body_of(rounds.Why))],
) -> Response:
    """End a round before its verdict."""
    return answer(summarised(here, who, rounds.cancel(here, who, number, ask)))


@router.post("/rounds/{number}/revise", **takes(rounds.Why))
def revise(
    number: Number,
    here: Here,
    who: Signed,
    ask: Annotated[rounds.Why, Depends(body_of(rounds.Why))],
) -> Response:
    """Make the waiting candidate again under the law now in force."""
    return answer(summarised(here, who, rounds.revise(here, who, number, ask)))


@router.post("/rounds/{number}/release")
def release_again(number: Number, here: Here, who: Signed, alias: str = "") -> Response:
    """Make the alias, or a team's, mean this round's adapter. Needs the passphrase."""
    return answer(serving.release_again(here, who, number, alias))
