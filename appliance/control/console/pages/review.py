"""The review of a candidate: checks, data, provenance, history, the model card."""

from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from appliance.control.acting import marks as acting
from appliance.control.api.review import DataAsked, Number
from appliance.control.console.asking import Form, Here, Reader, page, see_other
from appliance.control.console.links import sample_href
from appliance.control.identity import Person
from appliance.control.reading import card, chain_picture, checks, data, head, history
from appliance.control.reading import provenance as chain
from appliance.control.steps import Ground
from policies.access import Act

router = APIRouter()

TABS = ("checks", "samples", "data", "provenance", "history")


def around(here: Ground, who: Person, number: Number, tab: str) -> dict[str, Any]:
    """What every tab shows around itself: the head, the tabs, the foot."""
    above = head.of(here, who, number)
    return {
        "head": above,
        "round": above.round,
        "why_not_sign": above.why_not_sign,
        "may_comment": who.may(Act.COMMENT),
        "tab": f"/rounds/{number}/{tab}",
        "tabs": [{"href": f"/rounds/{number}/{one}", "label": one.capitalize()} for one in TABS],
        "title": f"Review of round {number}: {tab}",
    }


@router.get("/rounds/{number}/checks")
def show_checks(request: Request, number: Number, here: Here, who: Reader) -> Response:
    """Each gate on each suite."""
    found = checks.of(here, who, number)
    return page(request, "review_checks.html", **around(here, who, number, "checks"), found=found)


@router.get("/rounds/{number}/data")
def show_data(
    request: Request,
    number: Number,
    here: Here,
    who: Reader,
    asked: DataAsked,
    after: Annotated[str, Query(max_length=1000)] = "",
) -> Response:
    """What the candidate learnt from, and what was left out."""
    found = data.find(here, who, number, asked, after)
    base = f"/rounds/{number}/data"
    given = {name: value for name, value in msgspec.structs.asdict(asked).items() if value}
    return page(
        request,
        "review_data.html",
        **around(here, who, number, "data"),
        found=found,
        asked=asked,
        hrefs={reason: f"{base}?{urlencode({'reason': reason})}" for reason in _reasons(found)},
        first=f"{base}?{urlencode(given)}" if after else None,
        more=f"{base}?{urlencode({**given, 'after': found.after})}" if found.after else None,
    )


@router.get("/rounds/{number}/provenance")
def show_provenance(request: Request, number: Number, here: Here, who: Reader) -> Response:
    """The chain of digests, as a list and as a picture."""
    found = chain.of(here, who, number)
    return page(
        request,
        "review_provenance.html",
        **around(here, who, number, "provenance"),
        found=found,
        picture=chain_picture.draw(found),
    )


@router.get("/rounds/{number}/history")
def show_history(request: Request, number: Number, here: Here, who: Reader) -> Response:
    """What people said and did."""
    found = history.of(here, who, number)
    hrefs = {
        one.number: sample_href(number, one.suite, one.item_id)
        for one in found.comments
        if one.suite is not None and one.item_id is not None
    }
    return page(
        request, "review_history.html", **around(here, who, number, "history"), found=found,
        hrefs=hrefs,
    )  # fmt: skip


@router.post("/rounds/{number}/comments")
def comment(number: Number, here: Here, who: Reader, form: Form) -> Response:
    """Say something about the round."""
    acting.comment(here, who, number, acting.Said(body=form.get("body", "")))
    return see_other(f"/rounds/{number}/history", notice="commented")


@router.get("/rounds/{number}/card.md")
def show_card(number: Number, here: Here, who: Reader) -> Response:
    """The model card, to download."""
    return Response(
        card.of(here, who, number),
        media_type="text/markdown; charset=utf-8",
        headers={"content-disposition": f'attachment; filename="round-{number}-README.md"'},
    )


def _reasons(found: data.Data) -> list[str]:
    return list(found.overview.reasons)
