"""Suites: what is in force, their items and past, keeping a test, and deciding about proposals."""

from typing import Any
from urllib.parse import quote

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from appliance.control.acting import proposals as deciding
from appliance.control.acting import suites as acting
from appliance.control.console import talk_form
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
from appliance.control.reading import replay, suite_history, suites
from appliance.core.errors import RecordError, UsageError
from policies.access import Act

router = APIRouter()


@router.get("/suites")
def list_suites(request: Request, here: Here, who: Reader) -> Response:
    """Every suite in force, and the proposals that wait."""
    return page(
        request, "suites.html", title="Suites", found=suites.in_force(here, who),
        proposals=suite_history.open_proposals(here, who),
    )  # fmt: skip


@router.post("/suites/keep")
def keep(here: Here, who: Reader, form: Form) -> Response:
    """Keep the prompt of an answer as a test."""
    who.require(Act.KEEP_TEST)
    messages, _ = replay.whole(here, who, talk_form.asked(form))
    side = form.get("side", "")
    fields = {name: form.get(f"keep{side}-{name}", "").strip() for name in _KEEP_FIELDS}
    wanted: dict[str, Any] = {
        "suite": fields["suite"] or fields["new"],
        "messages": messages,
        "check": _check(fields, form.get(f"keep{side}-expected", "")),
        "family": fields["family"] or "kept",
        "language": fields["language"],
        "max_tokens": form.get("max_tokens") or "256",
    }
    if not wanted["suite"]:
        raise UsageError("no suite is chosen", next_step="choose one, or name a new one")
    try:
        ask = msgspec.convert(wanted, acting.Keep, strict=False)
    except msgspec.ValidationError as error:
        raise RecordError(f"not a test: {error}") from error
    kept = acting.keep(here, who, ask)
    if kept.proposed is not None:
        return see_other(f"/proposals/{kept.proposed}", notice="proposed")
    return see_other(f"/suites/{quote(kept.suite)}/items/{kept.item_id}", notice="kept")


@router.get("/suites/{name}")
def suite(request: Request, name: str, here: Here, who: Reader, after: int = 0) -> Response:
    """One suite in force, 50 items at a time."""
    found = suites.one(here, who, name)
    after = min(max(after, 0), max(found.num_items - 1, 0))
    seen = who.sees(here.settings.gateway.label)
    return page(
        request, "suite.html", title=f"Suite {name}", found=found, after=after, most=suites.PAGE,
        items=suites.items(here, who, name, after=after) if seen else None,
        label=here.settings.gateway.label,
        proposals=suite_history.open_proposals(here, who, name),
    )  # fmt: skip


@router.get("/suites/{name}/items/{item_id}")
def item(request: Request, name: str, item_id: str, here: Here, who: Reader) -> Response:
    """One item, whole."""
    found = suites.one(here, who, name)
    return page(
        request, "suite_item.html", title=f"Test {item_id}", found=found,
        item=suites.item(here, who, name, item_id),
    )  # fmt: skip


@router.get("/suites/{name}/history")
def history(
    request: Request, name: str, here: Here, who: Reader, before: Before = None
) -> Response:
    """Every change of a suite, newest first."""
    changes = suite_history.history(here, who, name, before=before)
    more = len(changes) == suites.PAGE and changes[-1].before
    return page(
        request, "suite_history.html", title=f"History of {name}", name=name, changes=changes,
        before=changes[-1].sequence if more else None, first=before is None,
    )  # fmt: skip


@router.get("/suites/{name}/difference")
def difference(
    request: Request, name: str, here: Here, who: Reader, old: str = "", new: str = ""
) -> Response:
    """What changed between two versions."""
    found = suite_history.difference(here, who, name, old, new)
    return page(request, "suite_difference.html", title=f"Change of {name}", name=name, found=found)


@router.post("/suites/{name}/repeal")
def repeal(name: str, here: Here, who: Reader, form: Form) -> Response:
    """Take a suite out of force; propose to, where it is protected."""
    made = acting.repeal(here, who, name, reason=form.get("reason", "").strip())
    if made is not None:
        return see_other(f"/proposals/{made.proposed}", notice="proposed")
    return see_other("/suites", notice="repealed")


@router.get("/proposals/{number}")
def proposal(request: Request, number: Number, here: Here, who: Reader) -> Response:
    """One proposal, what it would change, and who may decide."""
    found = suite_history.proposal(here, who, number)
    seen = who.sees(here.settings.gateway.label)
    change = (
        suite_history.difference(here, who, found.name, found.replaces, found.object)
        if seen
        else None
    )
    is_open = found.state == "open"
    return page(
        request, "proposal.html", title=f"Proposal {number}", proposal=found, found=change,
        name=found.name, label=here.settings.gateway.label,
        stands=suite_history.still_stands(here, found),
        may_decide=is_open and seen and who.may(Act.ACCEPT_SUITE) and who.name != found.proposer,
        may_withdraw=is_open and who.name == found.proposer,
    )  # fmt: skip


@router.post("/proposals/{number}/accept")
def accept(number: Number, here: Here, who: Signer, form: Form) -> Response:
    """Sign that a proposed change is in force."""
    del form
    deciding.accept(here, who, number)
    return see_other(f"/proposals/{number}", notice="accepted")


@router.post("/proposals/{number}/decline")
def decline(number: Number, here: Here, who: Signer, form: Form) -> Response:
    """Sign that a proposed change is not wanted."""
    deciding.decline(here, who, number, reason=form.get("reason", "").strip())
    return see_other(f"/proposals/{number}", notice="declined")


@router.post("/proposals/{number}/withdraw")
def withdraw(number: Number, here: Here, who: Reader, form: Form) -> Response:
    """Take one's own proposal back."""
    deciding.decline(here, who, number, reason=form.get("reason", "").strip())
    return see_other(f"/proposals/{number}", notice="declined")


_KEEP_FIELDS = ("suite", "new", "family", "language", "check", "program", "cases", "results")


def _check(fields: dict[str, str], expected: str) -> dict[str, Any]:
    if fields["check"] != "program":
        return {"kind": "exact", "expected": expected}
    return {
        "kind": "program",
        "program": fields["program"],
        "cases": _json_list(fields["cases"], "cases"),
        "expected": _json_list(fields["results"], "expected results"),
    }


def _json_list(text: str, what: str) -> list[Any]:
    try:
        return msgspec.json.decode(text, type=list[Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(
            f"the {what} are a JSON list, such as [1, 2]: {error}", next_step="mend the list"
        ) from error
