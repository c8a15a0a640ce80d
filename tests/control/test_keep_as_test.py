"""An answer is kept as a test: in a new suite or beside others, by the form and by the API."""

import html

import msgspec
import pytest

from appliance.control.acting import suites
from appliance.control.steps import Ground
from tests.control.browser import Browser
from tests.control.talking import BASE, fields, kept_fields, says, state_of


@pytest.fixture
def ground(served: Ground) -> Ground:
    return served


def test_an_answer_is_kept_as_a_test_in_a_suite(olga: Browser) -> None:
    page = olga.post("/talk", fields(says("42"), BASE))
    assert "you become an author of the next round, and cannot sign for it" in page.text
    asked = state_of(page.text)["asked"][0]
    form = {
        "asked": asked, "side": "0", "max_tokens": "64", "keep0-new": "räte & co",
        "keep0-check": "exact", "keep0-expected": "42\n", "keep0-family": "sums",
        "keep0-language": "de",
    }  # fmt: skip
    sent = olga.post("/suites/keep", form)
    assert sent.status_code == 400, "an article's name has no ampersand"
    assert "42" in sent.text
    sent = olga.post("/suites/keep", {**form, "keep0-new": "räte"})
    assert sent.status_code == 303, sent.text
    shown = olga.page(sent.headers["location"])
    assert "Kept as a test" in shown
    assert "sums" in shown
    item = olga.api("GET", "/suites/räte").json()["items"][0]
    assert item["messages"] == [{"role": "user", "content": says("42")}]
    assert item["check"] == {"kind": "exact", "expected": "42\n"}
    assert (item["language"], item["max_tokens"]) == ("de", 64)
    again = olga.post("/suites/keep", {**form, "keep0-suite": "räte"})
    assert again.headers["location"] == sent.headers["location"]
    assert olga.api("GET", "/suites").json()[0]["num_items"] == 1


@pytest.mark.usefixtures("unchecked")
def test_a_test_may_be_a_program(olga: Browser) -> None:
    form = kept_fields(
        "sum?", new="sums", check="program", program="def run(answer, case):\n    return case",
        cases="[1, 2]", results="[1, 2]",
    )  # fmt: skip
    assert olga.post("/suites/keep", form).status_code == 303
    (item,) = olga.api("GET", "/suites/sums").json()["items"]
    assert item["check"]["cases"] == [1, 2]
    assert item["check"]["program"].startswith("def run")


@pytest.mark.parametrize(
    ("change", "says_"),
    [
        ({"new": ""}, "no suite is chosen"),
        ({"expected": " "}, "expected answer is empty"),
        ({"check": "program", "program": "x", "cases": "[1", "results": "[]"}, "JSON list"),
        ({"language": "Deutsch bitte"}, "language"),
        ({"family": "f" * 65}, "family"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_test_is_told(olga: Browser, change: dict[str, str], says_: str) -> None:
    good = {"new": "sums", "check": "exact", "expected": "42"}
    answer = olga.post("/suites/keep", kept_fields("q?", **{**good, **change}))
    assert answer.status_code == 400
    assert says_ in html.unescape(answer.text)
    assert olga.api("GET", "/suites").json() == []


@pytest.mark.parametrize("asked", ["", "null", "[]", '{"messages": 3}', "{" * 5000, '{"x": 1}'])
def test_a_forged_prompt_is_refused(olga: Browser, asked: str) -> None:
    answer = olga.post("/suites/keep", {**kept_fields("q", new="s", expected="x"), "asked": asked})
    assert answer.status_code == 400


def test_an_item_of_the_api_is_kept(ground: Ground, olga: Browser, unchecked: None) -> None:
    ask = suites.Keep(
        suite="s", messages=[{"role": "user", "content": "q"}],
        check={"kind": "exact", "expected": "a"},
    )  # fmt: skip
    body = msgspec.to_builtins(ask)
    assert olga.api("POST", "/suites/keep", body).status_code == 201
    assert olga.api("POST", "/suites/keep", body).status_code == 200
    item_id = olga.api("GET", "/suites/s").json()["items"][0]["item_id"]
    assert olga.api("GET", f"/suites/s/items/{item_id}").json()["place"] == 1
    (change,) = olga.api("GET", "/suites/s/history").json()
    difference = olga.api("GET", f"/suites/s/difference?new={change['object']}").json()
    assert difference["num_added"] == 1
