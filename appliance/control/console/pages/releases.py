"""What the alias means, and undoing it."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from appliance.control.acting import serving
from appliance.control.acting.rounds import Why
from appliance.control.console.asking import Before, Form, Here, Reader, Signer, page, see_other
from appliance.control.reading import releases as reading

router = APIRouter()


@router.get("/releases")
def releases(request: Request, here: Here, who: Reader, before: Before = None) -> Response:
    """The alias, its history, and the ways back."""
    found = reading.alias(here, who, before)
    return page(request, "releases.html", title="Releases", found=found, live=True)


@router.post("/releases/rollback")
def roll_back(here: Here, who: Signer, form: Form) -> Response:
    """The alias means the adapter before again."""
    serving.roll_back(here, who, Why(reason=form.get("reason", "")))
    return see_other("/releases", notice="rolled-back")


@router.post("/releases/kill")
def kill(here: Here, who: Signer, form: Form) -> Response:
    """The alias means the base: no adapter serves."""
    serving.kill(here, who, Why(reason=form.get("reason", "")))
    return see_other("/releases", notice="killed")


@router.post("/releases/again")
def again(here: Here, who: Signer, form: Form) -> Response:
    """Release a round's adapter again: its approvals are checked again."""
    given = form.get("round", "")
    serving.release_again(here, who, int(given) if given.isdecimal() and len(given) < 10 else 0)
    return see_other("/releases", notice="released")
