"""The pages of suites: what they show, and a change of a protected one in two browsers."""

import html
import json
import re

import pytest

from appliance.control.identity import Person
from appliance.control.reading import suites as reading
from appliance.control.steps import Ground
from tests.control.browser import PASSPHRASE, Browser
from tests.control.talking import NASTY, kept_fields

PROTECTED = (
    '{"suite": "guard", "kind": "protected"}\n'
    + '{"item_id": "1", "family": "f", "messages": [{"role": "user", "content": "<i>q</i>"}], '
    + '"check": {"kind": "exact", "expected": "a"}}\n'
)
PERSON = Person(name="test", role="operator", label="internal")


@pytest.fixture
def guarded(ground: Ground, olga: Browser, unchecked: None) -> None:
    answer = olga.api("PUT", "/law/suite/guard", {"text": PROTECTED})
    assert answer.status_code == 201, answer.text


@pytest.mark.usefixtures("guarded")
def test_a_test_for_a_protected_suite_is_proposed_and_signed_by_another(
    ground: Ground, olga: Browser, bela: Browser
) -> None:
    sent = olga.post("/suites/keep", kept_fields("new?", suite="guard", expected="b"))
    assert sent.status_code == 303
    place = sent.headers["location"].partition("?")[0]
    assert "nobody accepts their own" in olga.page(place)
    assert "new?" in bela.page(place)
    assert "1 added" in re.sub(r"<[^>]+>", "", bela.page(place))
    assert f'href="{place}"' in bela.page("/suites")
    wrong = bela.post(f"{place}/accept", {"passphrase": "not mine at all"})
    assert wrong.status_code == 403
    assert olga.post(f"{place}/accept", {"passphrase": PASSPHRASE}).status_code == 403
    assert bela.post(f"{place}/accept", {"csrf": "x", "passphrase": PASSPHRASE}).status_code == 403
    assert reading.one(ground, PERSON, "guard").num_items == 1
    signed = bela.post(f"{place}/accept", {"passphrase": PASSPHRASE})
    assert signed.headers["location"] == f"{place}?notice=accepted"
    assert reading.one(ground, PERSON, "guard").num_items == 2
    assert bela.post(f"{place}/accept", {"passphrase": PASSPHRASE}).status_code == 409
    assert "accepted by" in olga.page("/suites")
    assert "bela" in olga.page("/suites/guard/history")


@pytest.mark.usefixtures("guarded")
def test_by_the_api_a_protected_suite_takes_two_as_well(olga: Browser, bela: Browser) -> None:
    changed = PROTECTED.replace('"a"', '"b"')
    made = olga.api("PUT", "/law/suite/guard", {"text": changed, "reason": "b is right"})
    assert made.status_code == 202
    number = made.json()["proposed"]
    assert made.json()["next_step"].endswith(f"espalier law accept {number}")
    assert olga.api("DELETE", "/law/suite/guard").status_code == 202
    assert olga.api("POST", f"/proposals/{number}/accept").status_code == 403
    assert bela.api("GET", f"/proposals/{number}").json()["reason"] == "b is right"
    accepted = bela.api("POST", f"/proposals/{number}/accept")
    assert accepted.json()["accepted_by"] == "bela"
    assert bela.api("POST", f"/proposals/{number + 1}/accept").status_code == 409
    assert bela.api("GET", "/proposals").json() == []
    for missing in (99, 2**62):
        assert bela.api("POST", f"/proposals/{missing}/accept").status_code == 404
    assert bela.api("POST", f"/proposals/{2**70}/accept").status_code in (400, 404)


@pytest.mark.usefixtures("guarded")
def test_repealing_declining_and_taking_back(olga: Browser, bela: Browser, ground: Ground) -> None:
    place = (
        olga.post("/suites/guard/repeal", {"reason": "old"}).headers["location"].partition("?")[0]
    )
    assert "taken out of force" in bela.page(place)
    declined = bela.post(f"{place}/decline", {"passphrase": PASSPHRASE, "reason": "no"})
    assert declined.status_code == 303
    assert "Declined" in olga.page(place)
    place = olga.post("/suites/guard/repeal", {}).headers["location"].partition("?")[0]
    carl = Browser.signed_in(ground, "carl", "operator")
    assert carl.post(f"{place}/withdraw", {}).status_code == 403
    assert olga.post(f"{place}/withdraw", {}).status_code == 303
    assert "guard" in olga.page("/suites")


def test_the_pages_of_a_suite(ground: Ground, olga: Browser, unchecked: None) -> None:
    item = {"family": NASTY, "messages": [{"role": "user", "content": NASTY * 500}]}
    item["check"] = {"kind": "exact", "expected": NASTY}
    lines = [{"suite": NASTY, "kind": "target"}] + [
        {"item_id": f"{n}/{NASTY}", **item} for n in range(60)
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    assert olga.api("PUT", "/law/suite/many", {"text": text}).status_code == 201
    fewer = "\n".join(text.split("\n")[:40])
    assert olga.api("PUT", "/law/suite/many", {"text": fewer}).status_code == 201
    history = olga.page("/suites/many/history")
    (change,) = re.findall(r'href="(/suites/many/difference[^"]*old=sha[^"]*)"', history)
    for path in (
        "/suites", "/suites/many", "/suites/many?after=30", "/suites/many?after=10000",
        "/suites/many/history", html.unescape(change),
    ):  # fmt: skip
        page = olga.page(path)
        assert "<script>alert" not in page
        assert len(page.encode()) < 150_000, path
    assert "21</span> removed" in olga.page(html.unescape(change))
    for missing in (
        "/suites/none",
        "/suites/many/items/none",
        "/suites/none/history",
        "/proposals/9",
    ):
        olga.page(missing, 404)
    olga.page("/suites/many/difference?old=sha256:0&new=", 404)
    paul = Browser.signed_in(ground, "paul", "viewer", "public")
    assert "above yours" in paul.page("/suites/many")
    assert "alert(1)" not in re.sub(r"(?s)<dl.*?</dl>", "", paul.page("/suites/many"))
    paul.page("/suites/many/items/0", 403)
