"""The law in force, its changes, and the audit log."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response

from appliance.control import law
from appliance.control.acting import law as acting
from appliance.control.acting.proposals import Proposed
from appliance.control.api.asking import Here, Signed, answer, body_of, takes
from appliance.control.reading import words
from appliance.core import audit
from policies.access import Act

router = APIRouter(tags=["law"])


@router.get("/law")
def show_law(here: Here, who: Signed) -> Response:
    """Every article in force."""
    who.require(Act.VIEW)
    return answer(law.in_force(here.database))


@router.put("/law/{kind}/{name}", status_code=201, **takes(acting.Text))
def set_article(
    kind: str,
    name: str,
    here: Here,
    who: Signed,
    ask: Annotated[acting.Text, Depends(body_of(acting.Text))],
) -> Response:
    """Put an article in force; a change of a protected suite is proposed (202)."""
    made = acting.set_article(here, who, kind, name, ask)
    return answer(made, 202 if isinstance(made, Proposed) else 201)


@router.delete("/law/{kind}/{name}")
def repeal_article(kind: str, name: str, here: Here, who: Signed) -> Response:
    """Take an article out of force; a protected suite's repeal is proposed (202)."""
    made = acting.repeal_article(here, who, kind, name)
    return answer(made, 202) if made else answer({"repealed": f"{kind}/{name}"})


@router.get("/audit")
def show_audit(
    here: Here,
    who: Signed,
    after: Annotated[int, Query(ge=0, le=2**62)] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    verify: bool = False,
) -> Response:
    """Entries of the audit log; with `verify`, only if the whole chain holds."""
    who.require(Act.VIEW)
    with here.database.read() as connection:
        if verify:
            audit.verify(connection)
        found = audit.entries(connection, after=after, limit=limit)
    return answer(words.entries(here, who, found))
