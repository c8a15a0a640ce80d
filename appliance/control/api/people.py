"""People, and everybody's own credential."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends
from fastapi.responses import Response

from appliance.control import people, tokens
from appliance.control.acting import people as acting
from appliance.control.api.asking import Here, Signed, answer, body_of, takes
from policies.access import Act

router = APIRouter(tags=["people"])


class NewPassphrase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new passphrase."""

    passphrase: str


@router.get("/me")
def me(who: Signed) -> Response:
    """Who you are to this appliance."""
    return answer({"name": who.name, "role": who.role, "label": who.label, "acts": who.acts})


@router.put("/me/passphrase", **takes(NewPassphrase))
def change_own_passphrase(
    here: Here, who: Signed, ask: Annotated[NewPassphrase, Depends(body_of(NewPassphrase))]
) -> Response:
    """A new passphrase of your own; your sessions end."""
    return answer(acting.change_own_passphrase(here, who, ask.passphrase))


@router.get("/me/tokens")
def own_tokens(here: Here, who: Signed) -> Response:
    """Your tokens, without their secrets."""
    return answer(tokens.of(here.database, who.name))


@router.post("/me/tokens", status_code=201, **takes(acting.NewToken))
def issue_token(
    here: Here, who: Signed, ask: Annotated[acting.NewToken, Depends(body_of(acting.NewToken))]
) -> Response:
    """Make a token for your programs; its secret is in this answer alone."""
    return answer(acting.issue_token(here, who, ask), 201)


@router.delete("/me/tokens/{token_id}")
def revoke_token(token_id: str, here: Here, who: Signed) -> Response:
    """Make one of your tokens worthless."""
    acting.revoke_token(here, who, token_id)
    return answer({"revoked": token_id})


@router.get("/people")
def everybody(here: Here, who: Signed) -> Response:
    """Everybody who can, or could, sign in."""
    who.require(Act.VIEW)
    return answer(people.everybody(here.database))


@router.post("/people", status_code=201, **takes(acting.NewPerson))
def add(
    here: Here, who: Signed, ask: Annotated[acting.NewPerson, Depends(body_of(acting.NewPerson))]
) -> Response:
    """Make somebody who can sign in. Needs the passphrase."""
    return answer(acting.add(here, who, ask), 201)


@router.patch("/people/{name}", **takes(acting.Change))
def change(
    name: str,
    here: Here,
    who: Signed,
    ask: Annotated[acting.Change, Depends(body_of(acting.Change))],
) -> Response:
    """Change somebody's role, label or passphrase, or end their access. Needs the passphrase."""
    return answer(acting.change(here, who, name, ask))
