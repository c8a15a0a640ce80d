"""What the console refuses before anybody's act is looked at: hosts, origins, tokens, cookies."""

from collections.abc import Callable, Iterator

import argon2
import pytest

from appliance.control import people
from appliance.control.app import make_app
from appliance.control.steps import Ground
from appliance.core import audit
from appliance.core.database import Database
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.settings import Control, Settings
from tests.control.browser import ORIGIN, PASSPHRASE, Browser, hidden

STAFF = {
    "ada": "admin",
    "olga": "operator",
    "bela": "approver",
    "carl": "approver",
    "vera": "viewer",
}


@pytest.fixture
def ground(
    home: Home, database: Database, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> Ground:
    hasher = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(people, "_HASHER", hasher)
    monkeypatch.setattr(people, "_NOBODY", hasher.hash("nobody"))
    for name, role in STAFF.items():
        people.add(database, name=name, role=role, passphrase=PASSPHRASE, actor="os", at=1.0)
    return Ground(home, Settings(), database, store)


@pytest.fixture
def visit(ground: Ground) -> Iterator[Callable[[str], Browser]]:
    """Browsers of one console, each with somebody signed in."""
    app = make_app(ground)
    opened: list[Browser] = []

    def visit(name: str) -> Browser:
        browser = Browser(app)
        opened.append(browser)
        if name:
            assert browser.sign_in(name).status_code == 303
        return browser

    yield visit
    for browser in opened:
        browser.client.close()


def test_a_stranger_is_sent_to_the_door_and_back(visit: Callable[[str], Browser]) -> None:
    browser = visit("")
    answer = browser.get("/rounds?before=7")
    assert (answer.status_code, answer.headers["location"]) == (
        303, "/sign-in?next=/rounds%3Fbefore%3D7",
    )  # fmt: skip
    page = browser.get(answer.headers["location"])
    target = hidden(page.text, "next")
    fields = {"name": "bela", "passphrase": PASSPHRASE, "next": target}
    assert browser.post("/sign-in", fields).headers["location"] == "/rounds?before=7"


@pytest.mark.parametrize(
    "target",
    ["//evil.example", "https://evil.example/", "/\\evil.example", "javascript:1", "\n/x", ""],
)
def test_the_door_leads_nowhere_else(visit: Callable[[str], Browser], target: str) -> None:
    browser = visit("")
    fields = {"name": "bela", "passphrase": PASSPHRASE, "next": target}
    assert browser.post("/sign-in", fields).headers["location"] == "/"


def test_the_cookie_is_for_this_console_alone(visit: Callable[[str], Browser]) -> None:
    cookie = visit("").sign_in("bela").headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "secure" not in cookie, "over plain http a browser would not send it back"


def test_behind_https_the_cookie_is_secure(ground: Ground) -> None:
    settings = Settings(control=Control(url="https://espalier.example"))
    app = make_app(Ground(ground.home, settings, ground.database, ground.store))
    browser = Browser(app)
    fields = {"name": "bela", "passphrase": PASSPHRASE}
    assert "Secure" in browser.post("/sign-in", fields).headers["set-cookie"]
    assert browser.get("/sign-in", host="espalier.example").status_code in (200, 303)
    browser.client.close()


def test_a_wrong_passphrase_says_little_and_locks(visit: Callable[[str], Browser]) -> None:
    browser = visit("")
    for name in ("bela", "nobody"):
        answer = browser.sign_in(name, "wrong")
        assert answer.status_code == 403
        assert "the name or the passphrase is wrong" in answer.text
        assert "wrong&#34;" not in answer.text
    for _ in range(4):
        browser.sign_in("bela", "wrong")
    assert "try again in" in browser.sign_in("bela").text


FORGED = {
    "no token": {"csrf": ""},
    "a wrong token": {"csrf": "x" * 43},
    "a token of somebody else": {"csrf": "other"},
}


@pytest.mark.parametrize("forged", FORGED, ids=list(FORGED))
def test_a_forged_form_does_nothing(
    visit: Callable[[str], Browser], ground: Ground, forged: str
) -> None:
    browser, other = visit("ada"), visit("olga")
    fields = dict(FORGED[forged])
    if fields["csrf"] == "other":
        fields["csrf"] = other.csrf
    new = {"name": "eve", "role": "admin", "new_passphrase": PASSPHRASE, "passphrase": PASSPHRASE}
    answer = browser.post("/people", {**new, **fields})
    assert answer.status_code == 403
    assert "not of your session" in answer.text
    assert "eve" not in [one.name for one in people.everybody(ground.database)]
    assert PASSPHRASE not in answer.text, "what was typed is shown, but no passphrase"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "", "http://127.0.0.1:9"])
@pytest.mark.parametrize("path", ["/people", "/sign-in", "/sign-out", "/theme"])
def test_a_form_from_elsewhere_does_nothing(
    visit: Callable[[str], Browser], ground: Ground, path: str, origin: str
) -> None:
    browser = visit("ada")
    fields = {"name": "eve", "role": "admin", "new_passphrase": PASSPHRASE}
    answer = browser.post(path, {**fields, "passphrase": PASSPHRASE}, origin=origin)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert browser.get("/account").status_code == 200, "still signed in"
    assert people.count(ground.database) == len(STAFF)


def test_a_cookie_from_before_signing_out_is_worth_nothing(visit: Callable[[str], Browser]) -> None:
    browser = visit("bela")
    kept = browser.client.cookies["espalier_session"]
    assert browser.post("/sign-out").status_code == 303
    browser.client.cookies.set("espalier_session", kept)
    assert browser.get("/account").headers["location"].startswith("/sign-in")
    answer = browser.sign("/releases/kill", reason="replayed")
    assert answer.status_code == 401
    assert "replayed" in answer.text, "what was typed is not lost"


def test_signing_in_gives_a_new_cookie_and_ends_the_old(visit: Callable[[str], Browser]) -> None:
    browser = visit("bela")
    old = browser.client.cookies["espalier_session"]
    browser.sign_in("bela")
    assert browser.client.cookies["espalier_session"] != old
    kept = visit("").get("/account", cookie=f"espalier_session={old}")
    assert kept.headers["location"] == "/sign-in?next=/account"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "a b", "[::1"])
@pytest.mark.parametrize("path", ["/", "/sign-in", "/api/rounds", "/static/espalier.css", "/livez"])
def test_a_host_name_that_is_not_ours_is_told_the_setting(
    visit: Callable[[str], Browser], path: str, host: str
) -> None:
    answer = visit("").get(path, host=host)
    assert answer.status_code == 400
    assert "[control] url" in answer.text


@pytest.mark.parametrize("host", ["localhost:8601", "127.0.0.1:1", "[::1]:8601", "LOCALHOST"])
def test_the_machine_itself_is_always_answered(visit: Callable[[str], Browser], host: str) -> None:
    assert visit("").get("/livez", host=host).status_code == 200


def test_a_signature_needs_the_passphrase_each_time(
    visit: Callable[[str], Browser], ground: Ground
) -> None:
    browser = visit("ada")
    new = {"name": "eve", "role": "viewer", "label": "internal", "new_passphrase": PASSPHRASE}
    for given in ({}, {"passphrase": "not mine at all"}):
        answer = browser.post("/people", {**new, **given})
        assert answer.status_code == 403
        # The same form again, with all that was typed, to be signed; but no passphrase in it.
        assert hidden(answer.text, "name") == "eve"
        assert hidden(answer.text, "label") == "internal"
        assert PASSPHRASE not in answer.text
    assert people.count(ground.database) == len(STAFF)
    assert browser.sign("/people", **new).status_code == 303
    assert people.count(ground.database) == len(STAFF) + 1


def test_every_page_carries_the_headers_that_tie_the_browser_down(
    visit: Callable[[str], Browser],
) -> None:
    browser = visit("bela")
    for path in ("/", "/sign-in", "/rounds/99", "/api/rounds", "/static/espalier.css"):
        headers = browser.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
    assert "no-store" in browser.get("/rounds/99").headers["cache-control"]
    assert "private" in browser.get("/rounds").headers["cache-control"]


def test_the_api_does_not_know_the_cookie(visit: Callable[[str], Browser]) -> None:
    browser = visit("bela")
    assert browser.get("/api/rounds").status_code == 401
    assert browser.client.post("/api/rounds", json={}).status_code == 401


def test_a_page_that_has_not_changed_is_not_made_again(
    visit: Callable[[str], Browser], ground: Ground
) -> None:
    browser, other = visit("bela"), visit("carl")
    etag = browser.get("/law").headers["etag"]
    same = browser.get("/law", **{"if-none-match": etag})
    assert (same.status_code, same.content) == (304, b"")
    # Another person's page is another page, also with the same address.
    assert other.get("/law", **{"if-none-match": etag}).status_code == 200
    with ground.database.write() as connection:
        audit.record(connection, actor="x", act="x", subject="x", at=1.0)
    assert browser.get("/law", **{"if-none-match": etag}).status_code == 200


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/rounds/99", "no round 99"),
        ("/rounds/many", "number"),
        ("/rounds?before=soon", "before"),
        ("/nowhere", "/nowhere"),
        ("/law/recipe/none", "none"),
        ("/people/nobody", "nobody"),
        ("/rounds/99999999999999999999", "less than"),
    ],
)
def test_what_is_not_there_is_said_in_words(
    visit: Callable[[str], Browser], path: str, says: str
) -> None:
    answer = visit("bela").get(path)
    assert answer.status_code in (400, 404)
    assert says in answer.text


def test_a_body_without_end_is_refused(visit: Callable[[str], Browser]) -> None:
    browser = visit("bela")
    large = browser.client.post(
        "/theme", content=b"", headers={"content-length": str(33 << 20), "origin": ORIGIN}
    )
    assert large.status_code == 413
    endless = browser.client.post("/theme", content=iter([b"x"]), headers={"origin": ORIGIN})
    assert endless.status_code == 411


def test_names_of_people_are_text_in_the_page(
    visit: Callable[[str], Browser], ground: Ground
) -> None:
    name = "<b onclick=alert(1)>eve"
    people.add(ground.database, name=name, role="viewer", passphrase=PASSPHRASE, actor="x", at=1.0)
    page = visit("bela").get("/people").text
    assert "<b onclick" not in page
    assert "&lt;b onclick=alert(1)&gt;eve" in page
    assert visit("bela").get("/people/%3Cb%20onclick=alert(1)%3Eeve").status_code == 200


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/sign-in?next=//[", {}),
        ("/talk?round=100000000000000000000", {}),
        ("/sign-in", {"origin": "http://["}),
    ],
)
def test_an_address_that_is_none_is_no_fault(
    visit: Callable[[str], Browser], path: str, headers: dict[str, str]
) -> None:
    browser = visit("bela")
    assert browser.get(path, **headers).status_code < 500
    assert browser.client.post(path, data={}, headers=headers).status_code < 500


def test_a_stranger_sends_no_long_form(visit: Callable[[str], Browser]) -> None:
    answer = visit("").post("/sign-in", {"name": "x" * (65 << 10)})
    assert answer.status_code == 400
    assert "at most" in answer.text
