"""One's own account: passphrase and tokens."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from appliance.control import tokens
from appliance.control.acting import people as acting
from appliance.control.console.asking import Form, Here, Reader, Signer, page, see_other
from appliance.control.console.visits import COOKIE
from appliance.core.errors import UsageError
from policies.access import MAY, SIGNATURES, Role

router = APIRouter()


@router.get("/account")
def account(request: Request, here: Here, who: Reader) -> Response:
    """Who you are here, your tokens, your passphrase."""
    return page(
        request, "account.html", title="Account", tokens=tokens.of(here.database, who.name),
        acts=sorted(MAY[Role(who.role)] - SIGNATURES), signatures=sorted(SIGNATURES),
    )  # fmt: skip


@router.post("/account/passphrase")
def change_passphrase(here: Here, who: Signer, form: Form) -> Response:
    """A new passphrase; every session ends, this one too."""
    if form.get("new_passphrase", "") != form.get("again", ""):
        raise UsageError("the two new passphrases differ", next_step="type the same one twice")
    acting.change_own_passphrase(here, who, form.get("new_passphrase", ""))
    answer = see_other("/sign-in", notice="passphrase")
    answer.delete_cookie(COOKIE, path="/")
    return answer


@router.post("/account/tokens")
def issue(request: Request, here: Here, who: Signer, form: Form) -> Response:
    """Make a token: the one page that ever shows its secret."""
    try:
        days = float(form.get("days", "30"))
    except ValueError as error:
        raise UsageError(f"days is a number, got {form['days'][:60]!r}") from error
    ask = acting.NewToken(purpose=form.get("purpose", ""), acts=form.many("acts"), days=days)
    made = acting.issue_token(here, who, ask)
    return page(request, "token.html", title="Your new token", made=made)


@router.post("/account/tokens/{token_id}/revoke")
def revoke(token_id: str, here: Here, who: Reader, form: Form) -> Response:
    """Make a token worthless."""
    del form
    acting.revoke_token(here, who, token_id)
    return see_other("/account", notice="revoked")
