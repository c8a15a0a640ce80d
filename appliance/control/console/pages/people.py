"""People: who may sign in, as what, and up to which label."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from appliance.control import people
from appliance.control.acting import people as acting
from appliance.control.console.asking import Form, Here, Reader, Signer, page, see_other
from policies.access import MAY, Act, Role

router = APIRouter()


@router.get("/people")
def everybody(request: Request, here: Here, who: Reader) -> Response:
    """Everybody who can, or could, sign in; and what each role may do."""
    who.require(Act.VIEW)
    return page(
        request, "people.html", title="People", people=people.everybody(here.database),
        roles=list(Role), acts=list(Act), may=MAY, can_manage=who.may(Act.MANAGE_PEOPLE),
    )  # fmt: skip


@router.post("/people")
def add(here: Here, who: Signer, form: Form) -> Response:
    """Make somebody who can sign in."""
    acting.add(
        here,
        who,
        acting.NewPerson(
            name=form.get("name", ""),
            role=form.get("role", ""),
            label=form.get("label", "internal").strip() or "internal",
            passphrase=form.get("new_passphrase", ""),
        ),
    )
    return see_other("/people", notice="person")


@router.get("/people/{name}")
def person(request: Request, name: str, here: Here, who: Reader) -> Response:
    """One person."""
    who.require(Act.VIEW)
    found = people.get(here.database, name)
    return page(
        request, "person.html", title=found.name, found=found, roles=list(Role),
        can_manage=who.may(Act.MANAGE_PEOPLE) and who.name != name,
    )  # fmt: skip


@router.post("/people/{name}")
def change(name: str, here: Here, who: Signer, form: Form) -> Response:
    """Change role or label, give a new passphrase, end or restore access."""
    ended = {"end": True, "restore": False}.get(form.get("access", ""))
    ask = acting.Change(
        role=form.get("role") or None,
        label=form.get("label") or None,
        passphrase=form.get("new_passphrase") or None,
        ended=ended,
    )
    acting.change(here, who, name, ask)
    return see_other(f"/people/{name}", notice="person")
