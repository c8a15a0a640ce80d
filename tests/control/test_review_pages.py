"""The review over HTTP: its pages and its API show the same, to those who may see it."""

import re
import time
from html import unescape
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from appliance.control import people
from appliance.control.app import make_app
from appliance.control.console.links import sample_href
from appliance.control.steps import Ground
from appliance.core import audit
from appliance.core.database import Database
from appliance.core.digests import canonical_json
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.records import Dataset, decode
from appliance.core.settings import Settings
from appliance.core.tables import rounds
from tests.control.conftest import PASSPHRASE
from tests.control.reviewing import Asked, a_round, said

ORIGIN = "http://localhost"
SUITE = "suite/with ? and #"
ITEM = "../<script>alert(1)</script>/%2F é\u202e"
BAD = "<script>alert(1)</script>"


@pytest.fixture
def ground(home: Home, database: Database, store: ObjectStore) -> Ground:
    return Ground(home, Settings(), database, store)


@pytest.fixture
def number(ground: Ground) -> int:
    asked = Asked(SUITE)
    asked.add(ITEM, said(f"{BAD} yes"), said(f"{BAD} no", "failed", f"for {BAD} it gave 4"))
    for i in range(60):
        asked.add(f"i{i}", said("x" * 9000), said("<&\"'>" * 2000), BAD, "de")
    asked.add("calls", *(said('{"name": "<b>", "arguments": {"<i>": ' + n + "}}") for n in "12"))
    return a_round(ground, [asked])


class Door:
    """A person in front of a browser, and the same person at the API."""

    def __init__(self, ground: Ground, name: str, role: str, label: str) -> None:
        people.add(
            ground.database, name=name, role=role, passphrase=PASSPHRASE, actor="t",
            at=time.time(), label=label,
        )  # fmt: skip
        self.client = TestClient(make_app(ground), base_url=ORIGIN)
        self._auth = (name, PASSPHRASE)
        # A page is asked for without the credential, so the cookie alone opens it.
        fields = {"name": name, "passphrase": PASSPHRASE, "next": "/"}
        opened = self.client.get("/sign-in").text
        if found := re.search(r'name="csrf" value="([^"]*)"', opened):
            fields["csrf"] = found[1]
        assert self._send("/sign-in", fields).status_code == 303

    def page(self, path: str, status: int = 200) -> str:
        answer = self.client.get(path)
        assert answer.status_code == status, answer.text[:2000]
        assert len(answer.content) < 150_000
        return str(answer.text)

    def post(self, path: str, status: int = 303, **fields: str) -> str:
        csrf = re.search(r'name="csrf" value="([^"]*)"', self.page("/account"))
        assert csrf is not None
        answer = self._send(path, {"csrf": csrf[1], **fields})
        assert answer.status_code == status, answer.text[:2000]
        return str(answer.headers.get("location", ""))

    def api(self, path: str, status: int = 200, body: Any = None) -> Any:
        method = "GET" if body is None else "POST"
        answer = self.client.request(method, f"/api{path}", json=body, auth=self._auth)
        assert answer.status_code == status, answer.text[:2000]
        return answer.json()

    def _send(self, path: str, fields: dict[str, str]) -> Any:
        return self.client.post(
            path, data=fields, headers={"origin": ORIGIN}, follow_redirects=False
        )


@pytest.fixture
def bela(ground: Ground, number: int) -> Door:
    return Door(ground, "bela", "approver", "internal")


TABS = ("checks", "samples", "data", "provenance", "history")


@pytest.mark.parametrize("tab", TABS)
def test_every_tab_is_a_page_that_holds_text_as_text(bela: Door, number: int, tab: str) -> None:
    shown = bela.page(f"/rounds/{number}/{tab}")
    assert BAD not in shown
    assert re.search(r" style=| on\w+=\"|<script>", shown) is None
    for other in TABS:
        assert f'href="/rounds/{number}/{other}"' in shown


def test_tabs_of_a_dataset_without_corrections_and_with_entries_of_every_sort(
    ground: Ground, bela: Door, number: int
) -> None:
    """What is not in a count or in an entry is nothing, and no error."""
    with ground.database.write() as connection:
        row = connection.execute(sa.select(rounds)).one()
        dataset = decode(ground.store.get(row.dataset), Dataset)
        plain = msgspec.structs.replace(dataset, examples=(), counts={"examples": 0})
        digest = ground.store.put(canonical_json(msgspec.to_builtins(plain)))
        connection.execute(sa.update(rounds).values(dataset=digest))
        for act in ("round.create", "round.failed"):
            detail = {"reason": "why"} if act == "round.failed" else {}
            audit.record(connection, actor="t", act=act, subject=str(number), at=1.0, **detail)
    assert "why" in bela.page(f"/rounds/{number}/history")
    assert "Nothing was left out" in bela.page(f"/rounds/{number}/data")


def test_a_sample_is_found_whatever_it_is_named(bela: Door, number: int) -> None:
    listed = bela.page(f"/rounds/{number}/samples?change=regressed")
    (href,) = {unescape(one) for one in re.findall(r'href="(/rounds/\d+/samples/[^"]+)"', listed)}
    assert href == sample_href(number, SUITE, ITEM) + "?change=regressed"
    shown = bela.page(href)
    assert "alert(1)" in shown
    assert BAD not in shown
    # The direction of the page is not turned by a name.
    assert "\u202e" not in shown
    assert bela.api(sample_href(number, SUITE, ITEM))["item_id"] == ITEM
    whole = bela.client.get(sample_href(number, SUITE, ITEM, room="texts/candidate"))
    assert (whole.text, whole.headers["content-type"].split(";")[0]) == (f"{BAD} no", "text/plain")


def test_long_texts_and_tool_calls_make_small_pages(bela: Door, number: int) -> None:
    assert "9\u202f000" in bela.page(sample_href(number, SUITE, "i1"))
    shown = bela.page(sample_href(number, SUITE, "calls"))
    assert "Tool calls" in shown
    assert "<b>" not in shown


def test_ticking_goes_on_to_the_next_one_in_the_filtered_order(bela: Door, number: int) -> None:
    todo = "?viewed=no"
    after = bela.post(sample_href(number, SUITE, ITEM, room="viewed") + todo, viewed="1")
    (second,) = bela.api(f"/rounds/{number}/samples?viewed=no")["rows"][:1]
    assert after.startswith(sample_href(number, second["suite"], second["item_id"]) + todo)
    assert bela.api(f"/rounds/{number}/samples?viewed=yes")["total"] == 1


def test_a_blind_vote_shows_the_sides_after_it_and_not_before(bela: Door, number: int) -> None:
    href = sample_href(number, SUITE, ITEM, room="blind")
    before = bela.page(href).partition('id="main"')[2].partition('class="decision"')[0]
    section = before.partition('<section class="card">')[2]
    for word in ("hampion", "andidate", "Failed", "sha256"):
        assert word not in section.replace("the candidate", "")
    goal = bela.post(sample_href(number, SUITE, ITEM, room="votes"), choice="left", room="blind")
    assert goal.startswith(href)
    assert re.search(r"<h3>Left: (champion|candidate)</h3>", bela.page(href))
    assert bela.api(sample_href(number, SUITE, ITEM, room="blind"))["left_is"] is not None


def test_comments_go_to_the_round_and_to_the_sample(bela: Door, number: int) -> None:
    bela.post(f"/rounds/{number}/comments", body=f"round {BAD}")
    bela.post(sample_href(number, SUITE, ITEM, room="comments"), body="at the sample")
    shown = bela.page(f"/rounds/{number}/history")
    assert "at the sample" in shown
    assert unescape(shown).count(sample_href(number, SUITE, ITEM)) == 1
    assert BAD not in shown
    assert "at the sample" in bela.page(sample_href(number, SUITE, ITEM))
    bela.post(f"/rounds/{number}/comments", status=400, body=" ")


def test_the_api_votes_ticks_and_comments(bela: Door, number: int) -> None:
    def room(name: str) -> str:
        return sample_href(number, SUITE, ITEM, room=name)

    assert bela.api(room("votes"), body={"choice": "tie"}) == {"viewed": True, "vote": "tie"}
    assert bela.api(room("viewed"), body={"viewed": False})["viewed"] is False
    assert bela.api(room("comments"), 201, {"body": "x"})["item_id"] == ITEM
    assert bela.api(f"/rounds/{number}/comments", 201, {"body": "y"})["item_id"] is None
    assert "question" in bela.api(room("texts/asked"))["text"]
    bela.api(room("votes"), 400, {"choice": "both"})
    bela.api(room("votes"), 400, {"choice": "tie", "more": 1})


@pytest.mark.parametrize("tab", [*TABS, "review"])
def test_the_api_has_every_tab(bela: Door, number: int, tab: str) -> None:
    assert bela.api(f"/rounds/{number}/{tab}")


def test_the_card_is_a_download(bela: Door, number: int) -> None:
    answer = bela.client.get(f"/rounds/{number}/card.md")
    assert answer.text.startswith("---\nlibrary_name: peft")
    assert f'filename="round-{number}-README.md"' in answer.headers["content-disposition"]


def test_a_lower_label_sees_numbers_and_none_of_the_texts(ground: Ground, number: int) -> None:
    low = Door(ground, "vera", "viewer", "public")
    for tab in ("checks", "data", "provenance", "history"):
        assert "task-0" not in low.page(f"/rounds/{number}/{tab}")
    for path in ("samples", "card.md"):
        assert "labelled internal" in low.page(f"/rounds/{number}/{path}", 403)
        if path == "samples":
            low.api(f"/rounds/{number}/{path}", 403)
    for room in ("samples", "blind", "texts/champion"):
        low.page(sample_href(number, SUITE, ITEM, room=room), 403)
        low.api(sample_href(number, SUITE, ITEM, room=room), 403)
    low.post(sample_href(number, SUITE, ITEM, room="votes"), status=403, choice="tie")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/rounds/999/checks", 404),
        ("/rounds/99999999999999999999/checks", 400),
        ("/rounds/1/samples?position=-1", 400),
        ("/rounds/1/samples?viewed=maybe", 400),
        ("/rounds/1/samples/none/none", 404),
        ("/rounds/1/samples/x", 404),
        ("/rounds/1/samples/%FF/%FF", 400),
        ("/rounds/1/samples?suite=none%00", 200),
        ("/rounds/1/texts/other/x/y", 400),
        ("/rounds/1/data?after=%00&reason=%27", 200),
    ],
)
def test_odd_addresses_are_answered_in_kind(bela: Door, path: str, status: int) -> None:
    bela.page(path, status)
    bela.api(path, status)
