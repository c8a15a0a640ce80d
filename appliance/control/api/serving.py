"""What is served, and undoing it."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends
from fastapi.responses import Response

from appliance.control.acting import rounds, serving
from appliance.control.api.asking import Here, Signed, answer, body_of, takes
from appliance.control.releasing import trying_now
from appliance.control.rounds import Rounds
from appliance.control.steps import approvals_of, serving_now
from policies.access import Act
from policies.lifecycle import State

router = APIRouter(tags=["serving"])


@router.get("/status")
def status(here: Here, who: Signed) -> Response:
    """What the alias means, and what waits for people."""
    who.require(Act.VIEW)
    open_round = Rounds(here.database).under_way()
    waits = open_round is not None and open_round.state is State.AWAITING_APPROVAL
    waiting = [open_round.round] if open_round and waits else []
    newest = Rounds(here.database).some(limit=1)
    trying = trying_now(here.database, here.settings.gateway.alias)
    return answer(
        {
            "serving": serving_now(here),
            "alias": here.settings.gateway.alias,
            "rollout": None if trying is None else msgspec.to_builtins(trying),
            "rounds": newest[0].round if newest else 0,
            "waiting_for_approval": waiting,
            "decided": {n: len(approvals_of(here.database, n)) for n in waiting},
        }
    )


@router.post("/rollback", **takes(rounds.Why))
def roll_back(
    here: Here,
    who: Signed,
    ask: Annotated[rounds.Why, Depends(body_of(rounds.Why))],
    alias: str = "",
) -> Response:
    """The alias means the adapter before again. Needs the passphrase."""
    return answer(serving.roll_back(here, who, ask, alias))


@router.post("/kill", **takes(rounds.Why))
def kill(
    here: Here,
    who: Signed,
    ask: Annotated[rounds.Why, Depends(body_of(rounds.Why))],
    alias: str = "",
) -> Response:
    """The alias means the base. Needs the passphrase."""
    return answer(serving.kill(here, who, ask, alias))
