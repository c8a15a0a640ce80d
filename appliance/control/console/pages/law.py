"""The law that governs rounds, and the audit log."""

from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from appliance.control import law
from appliance.control.acting import law as acting
from appliance.control.console.asking import Before, Form, Here, Reader, page, see_other
from appliance.control.reading import words
from appliance.core import audit
from appliance.core.errors import NotFoundError
from policies.access import Act

router = APIRouter()
_PAGE = 100


@router.get("/law")
def articles(request: Request, here: Here, who: Reader) -> Response:
    """Every article in force."""
    who.require(Act.VIEW)
    found = law.in_force(here.database)
    return page(request, "law.html", title="Law", articles=found)


@router.get("/law/{kind}/{name}")
def article(request: Request, kind: str, name: str, here: Here, who: Reader) -> Response:
    """One article's text, and who wrote its versions."""
    who.require(Act.VIEW)
    if kind == "suite":
        return RedirectResponse(f"/suites/{quote(name, safe='')}", 303)
    history = law.history(here.database, kind=kind, name=name)
    if not history:
        raise NotFoundError(f"no {kind} named {name!r} was ever in force", next_step="see /law")
    now = history[0]
    text = here.store.get(now.object).decode(errors="replace") if now.object else ""
    return page(
        request, "article.html", title=f"{kind} {name}", kind=kind, name=name, text=text,
        history=history, now=now,
    )  # fmt: skip


@router.post("/law/{kind}/{name}")
def set_article(kind: str, name: str, here: Here, who: Reader, form: Form) -> Response:
    """Put an article's text in force."""
    acting.set_article(here, who, kind, name, acting.Text(text=form.get("text", "")))
    return see_other(f"/law/{kind}/{name}", notice="law")


@router.get("/audit")
def audit_log(
    request: Request, here: Here, who: Reader, before: Before = None, act: str = ""
) -> Response:
    """The audit log, newest first."""
    who.require(Act.VIEW)
    with here.database.read() as connection:
        found = audit.newest(connection, before=before, act=act, limit=_PAGE + 1)
    shown = words.entries(here, who, found[:_PAGE])
    return page(
        request, "audit.html", title="Audit log", entries=shown, act=act,
        before=shown[-1].sequence if len(found) > _PAGE else None,
    )  # fmt: skip


@router.post("/audit/verify")
def verify(request: Request, here: Here, who: Reader, form: Form) -> Response:
    """Check the whole chain now."""
    del form
    who.require(Act.VIEW)
    with here.database.read() as connection:
        audit.verify(connection)
        newest = audit.newest(connection, limit=1)
    return page(request, "verified.html", title="The chain holds", newest=newest)
