"""The pages Talk and Suites over the real gateway: with and without the script, and bad input."""

import html
import json
import re
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from appliance.control import api, console, supervisor
from appliance.control.acting import suites
from appliance.control.identity import Person
from appliance.control.reading import suites as reading
from appliance.control.steps import Ground
from appliance.core.digests import Digest
from appliance.core.objects import ObjectStore
from appliance.core.records import Node, Sampling, Trajectory, Turn, Who, encode
from appliance.core.tables import law, proposals, trajectories
from tests.control.signed_in import PASSPHRASE, Browser, cards
from tests.sandbox.conftest import boxes  # noqa: F401 # registers the fixture
from tests.serving.conftest import (  # noqa: F401 # registers the fixtures
    ALIAS,
    Appliance,
    GatewayProcess,
    adapters,
    appliance,
    engine,
    gateway,
)
from tests.serving.engine_simulator import EngineSimulator

BASE = f"{ALIAS}@base"
ASK = {"do": "ask", "temperature": "0", "top_p": "1", "max_tokens": "200", "seed": ""}
NASTY = "<script>alert(1)</script>\"'&\u202e\x07"


@pytest.fixture
def ground(
    appliance: Appliance,  # noqa: F811
    gateway: GatewayProcess,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> Ground:
    host, _, port = gateway.url.removeprefix("http://").rpartition(":")
    monkeypatch.setattr(supervisor, "running", lambda _: {"gateway": [host, int(port)]})
    for package in (api, console):
        rooms = dict.fromkeys([*package._ROOMS, "talk", "suites"])
        monkeypatch.setattr(package, "_ROOMS", tuple(rooms))
    with appliance.database.write() as connection:
        for table in (law, proposals, trajectories):
            connection.execute(table.delete())
    store = ObjectStore(appliance.home.objects)
    return Ground(appliance.home, appliance.settings, appliance.database, store)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("suites", "proposals"):
        name = f"appliance.control.acting.{module}.require_sound_suite"
        monkeypatch.setattr(name, lambda *_: None)


@pytest.fixture
def olga(ground: Ground) -> Browser:
    return Browser(ground, "olga", "operator")


@pytest.fixture
def bela(ground: Ground) -> Browser:
    return Browser(ground, "bela", "approver")


def says(text: str, **script: Any) -> str:
    return "say:" + json.dumps({"text": text, **script})


def fields(text: str, *models: str, **change: Any) -> dict[str, Any]:
    return {**ASK, "model": list(models), "role": "user", "text": text, **change}


def events(answer: Any) -> list[dict[str, Any]]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = answer.text.split("\n\n")
    assert blocks.pop() == ""
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def test_with_and_without_the_script_the_same_is_shown(
    olga: Browser,
    appliance: Appliance,  # noqa: F811
    gateway: GatewayProcess,  # noqa: F811
    adapters: list[Digest],  # noqa: F811
) -> None:
    gateway.release(appliance, adapters[0])
    order = fields(says("grün\n```python\nprint(7)\n```"), ALIAS, BASE, probabilities="1")
    whole = olga.post("/talk", order)
    assert whole.status_code == 200
    streamed = events(olga.post("/talk/stream", order))
    shown = sorted(cards(whole.text))
    assert len(shown) == 2
    assert sorted(card for e in streamed if "card" in e for card in cards(e["card"])) == shown
    assert "grün" in shown[0]
    assert "Least likely tokens" in shown[0]
    said = ["".join(e.get("text", "") for e in streamed if e.get("side") == n) for n in (0, 1)]
    assert said == ["grün\n```python\nprint(7)\n```"] * 2
    assert len([e for e in streamed if "token" in e]) > 20
    asked = re.search(r'name="asked" value="([^"]*)"', whole.text)
    assert asked is not None
    assert html.unescape(asked[1]) == streamed[0]["asked"]


def test_the_form_offers_versions_and_keeps_what_was_typed(olga: Browser) -> None:
    page = olga.get(f"/talk?model={BASE}")
    assert f'<option value="{BASE}" selected>' in page
    assert len(page) < 60_000
    again = olga.post("/talk", fields("typed so far", BASE, do="add", seed="7", system="be brief"))
    for kept in ("typed so far", 'value="7"', "be brief", f'<option value="{BASE}" selected>'):
        assert kept in again.text
    assert cards(again.text) == []


def test_going_on_puts_the_answer_behind_the_prompt(olga: Browser) -> None:
    first = olga.post("/talk", fields(says("the answer"), BASE, system="be brief"))
    hidden = state_of(first.text)
    on = olga.post("/talk", {**ASK, **hidden, "model": BASE, "do": "continue:0"})
    assert re.findall(r'<option value="(\w+)" selected>', on.text) == [
        "user", "assistant", "user",
    ]  # fmt: skip
    assert "be brief" in on.text
    assert cards(on.text) == []
    assert olga.post("/talk", {**ASK, **hidden, "do": "continue:9"}).status_code == 400


def state_of(page: str) -> dict[str, Any]:
    """The hidden fields with which a page of answers is sent back."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page):
        if name != "csrf":
            found.setdefault(name, []).append(html.unescape(value))
    return dict(found)


@pytest.mark.parametrize(
    ("change", "status", "says_"),
    [
        ({"temperature": "hot"}, 400, "temperature"),
        ({"temperature": "3"}, 400, "temperature"),
        ({"temperature": "nan"}, 400, "temperature"),
        ({"top_p": "inf"}, 400, "top_p"),
        ({"max_tokens": "0"}, 400, "max_tokens"),
        ({"seed": "-1"}, 400, "seed"),
        ({"model": ""}, 400, "nobody is asked"),
        ({"model": "gpt-4"}, 404, "no version"),
        ({"text": " "}, 400, "nothing to ask"),
        ({"role": "king"}, 400, "role"),
        ({"trajectory": "t", "node": "x"}, 400, "node"),
        ({"trajectory": "t", "node": "0"}, 404, "no trajectory"),
        ({"csrf": "forged"}, 403, "not of your session"),
    ],
)
@pytest.mark.parametrize("route", ["/talk", "/talk/stream"])
def test_what_cannot_be_asked_is_told_and_what_was_typed_is_kept(
    olga: Browser, route: str, change: dict[str, str], status: int, says_: str
) -> None:
    answer = olga.post(route, {**fields("typed with care", BASE), **change})
    assert answer.status_code == status
    assert says_ in answer.text
    if "text" not in change:
        assert "typed with care" in answer.text


def test_script_and_control_characters_are_only_text(olga: Browser) -> None:
    answer = olga.post("/talk", fields(says(NASTY), BASE, system=NASTY))
    (card,) = cards(answer.text)
    assert "<script>alert" not in answer.text
    assert "&lt;script&gt;alert(1)" in card
    assert "⟦RLO⟧" in card
    streamed = events(olga.post("/talk/stream", fields(says(NASTY), BASE)))
    assert "<script>" not in next(e["card"] for e in streamed if "card" in e)


def test_a_stopped_engine_is_told_on_the_page(olga: Browser, engine: EngineSimulator) -> None:  # noqa: F811
    engine.stop()
    try:
        answer = olga.post("/talk", fields("hello", BASE))
        streamed = events(olga.post("/talk/stream", fields("hello", BASE)))
    finally:
        engine.start()
    assert answer.status_code == 200
    (card,) = cards(answer.text)
    assert 'role="alert"' in card
    assert "Next:" in card
    assert "hello" in answer.text
    assert next(e for e in streamed if "error" in e)["error"]["next_step"]
    assert cards(next(e["card"] for e in streamed if "card" in e)) == [card]


def test_a_viewer_has_no_talk(ground: Ground) -> None:
    vera = Browser(ground, "vera", "viewer")
    for answer in (
        vera.client.get("/talk"),
        vera.post("/talk", fields("x", BASE)),
        vera.post("/talk/stream", fields("x", BASE)),
        vera.post(
            "/talk/run", {**fields("x", BASE), "answer": "print(1)", "answered": BASE, "side": "0"}
        ),
        vera.post("/suites/keep", {"asked": "{}", "side": "0"}),
        vera.api("POST", "/talk", {"models": [BASE], "messages": [{"role": "user"}]}),
        vera.api("POST", "/talk/run", {"code": "print(1)"}),
    ):
        assert answer.status_code == 403


@pytest.mark.usefixtures("boxes")
def test_code_of_an_answer_runs_in_the_sandbox(olga: Browser) -> None:
    state = {
        **fields("q", BASE), "answered": [BASE, ALIAS], "side": "1",
        "answer": ["none", "Look:\n```python\nprint('<b>' + str(6 * 7))\n```"],
        "asked": '{"messages": []}',
    }  # fmt: skip
    whole = olga.post("/talk/run", state)
    first, second = cards(whole.text)
    assert "&lt;b&gt;42" in second
    assert "&lt;b&gt;42" not in first
    assert "none" in first
    part = olga.post("/talk/run", state, headers={"x-part": "1"})
    assert "&lt;b&gt;42" in part.text
    assert "<html" not in part.text
    assert olga.api("POST", "/talk/run", {"code": "print(1)"}).json()["printed"] == "1\n"
    assert olga.post("/talk/run", {**state, "side": "7"}).status_code == 400


def kept_fields(prompt: str, **change: str) -> dict[str, Any]:
    prefixed = {f"keep0-{name}": value for name, value in change.items()}
    messages = [{"role": "user", "content": prompt}]
    return {
        "asked": json.dumps({"messages": messages}),
        "side": "0",
        "max_tokens": "64",
        **prefixed,
    }


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
    shown = olga.get(sent.headers["location"])
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


PROTECTED = (
    '{"suite": "guard", "kind": "protected"}\n'
    + '{"item_id": "1", "family": "f", "messages": [{"role": "user", "content": "<i>q</i>"}], '
    + '"check": {"kind": "exact", "expected": "a"}}\n'
)


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
    assert "nobody accepts their own" in olga.get(place)
    assert "new?" in bela.get(place)
    assert "1 added" in re.sub(r"<[^>]+>", "", bela.get(place))
    assert f'href="{place}"' in bela.get("/suites")
    wrong = bela.post(f"{place}/accept", {"passphrase": "not mine at all"})
    assert wrong.status_code == 403
    assert olga.post(f"{place}/accept", {"passphrase": PASSPHRASE}).status_code == 403
    assert bela.post(f"{place}/accept", {"csrf": "x", "passphrase": PASSPHRASE}).status_code == 403
    assert reading.one(ground, PERSON, "guard").num_items == 1
    signed = bela.post(f"{place}/accept", {"passphrase": PASSPHRASE})
    assert signed.headers["location"] == f"{place}?notice=accepted"
    assert reading.one(ground, PERSON, "guard").num_items == 2
    assert bela.post(f"{place}/accept", {"passphrase": PASSPHRASE}).status_code == 409
    assert "accepted by" in olga.get("/suites")
    assert "bela" in olga.get("/suites/guard/history")


PERSON = Person(name="test", role="operator", label="internal")


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
    assert "taken out of force" in bela.get(place)
    declined = bela.post(f"{place}/decline", {"passphrase": PASSPHRASE, "reason": "no"})
    assert declined.status_code == 303
    assert "Declined" in olga.get(place)
    place = olga.post("/suites/guard/repeal", {}).headers["location"].partition("?")[0]
    carl = Browser(ground, "carl", "operator")
    assert carl.post(f"{place}/withdraw", {}).status_code == 403
    assert olga.post(f"{place}/withdraw", {}).status_code == 303
    assert "guard" in olga.get("/suites")


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
    history = olga.get("/suites/many/history")
    (change,) = re.findall(r'href="(/suites/many/difference[^"]*old=sha[^"]*)"', history)
    for path in (
        "/suites", "/suites/many", "/suites/many?after=30", "/suites/many?after=10000",
        "/suites/many/history", html.unescape(change),
    ):  # fmt: skip
        page = olga.get(path)
        assert "<script>alert" not in page
        assert len(page.encode()) < 150_000, path
    assert "21</span> removed" in olga.get(html.unescape(change))
    for missing in (
        "/suites/none",
        "/suites/many/items/none",
        "/suites/none/history",
        "/proposals/9",
    ):
        olga.get(missing, 404)
    olga.get("/suites/many/difference?old=sha256:0&new=", 404)
    paul = Browser(ground, "paul", "viewer", "public")
    assert "above yours" in paul.get("/suites/many")
    assert "alert(1)" not in re.sub(r"(?s)<dl.*?</dl>", "", paul.get("/suites/many"))
    paul.get("/suites/many/items/0", 403)


def replayable(ground: Ground, messages: list[Any], label: str = "internal", **change: Any) -> str:
    """A sealed trajectory of one turn."""
    turn = Turn(
        turn_id="t1", who=Who(key_id="k", team="t", project="p", agent="a"), label=label,
        session=None, base=None, adapter=None, template=None, messages=tuple(messages),
        answer={"role": "assistant", "content": "ok"}, finish_reason="stop",
        sampling=Sampling(temperature=0.25, max_tokens=33), prompt_ids=None, answer_ids=None,
        logprobs=None, started_at=1.0, ended_at=2.0, **change,
    )  # fmt: skip
    node = Node(turn=turn, parent=None, tier="silver", trainable=True)
    sealed = Trajectory(
        trajectory_id="traj-1", version=1, who=turn.who, label=label, nodes=(node,), tier="silver",
        outcome="unknown", feedback=(), sealed_at=3.0,
    )  # fmt: skip
    row = {
        "trajectory_id": "traj-1", "version": 1, "state": "sealed", "key_id": "k", "team": "t",
        "project": "p", "agent": "a", "label": label, "tier": "silver", "outcome": "unknown",
        "num_turns": 1, "object": ground.store.put(encode(sealed)), "last_turn_at": 2.0,
        "changed_at": 3.0, "sealed_at": 3.0,
    }  # fmt: skip
    with ground.database.write() as connection:
        connection.execute(sa.insert(trajectories).values(row))
    return "/talk?trajectory=traj-1&node=0"


def test_a_past_turn_is_replayed_in_the_form(ground: Ground, olga: Browser) -> None:
    system = {"role": "system", "content": "be kind"}
    path = replayable(ground, [system, {"role": "user", "content": "and now?"}])
    page = olga.get(path)
    for kept in ("be kind", "and now?", 'value="0.25"', 'value="33"', 'name="trajectory"'):
        assert kept in page
    assert 'name="node"' not in page
    olga.get("/talk?trajectory=traj-1&node=1", 404)
    olga.get("/talk?trajectory=traj-2&node=0", 404)
    paul = Browser(ground, "pia", "operator", "public")
    paul.get(path, 404)


def test_a_turn_with_tools_is_replayed_exactly(
    ground: Ground,
    olga: Browser,
    engine: EngineSimulator,  # noqa: F811
    appliance: Appliance,  # noqa: F811
) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    past = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_call_id": "1"},
    ]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    page = olga.get(replayable(ground, past, tools=(tool,)))
    assert 'name="node" value="0"' in page
    assert "3 messages as the agent sent them" in page
    order = fields(says("seen"), BASE, trajectory="traj-1", node="0")
    answer = olga.post("/talk", order)
    assert "seen" in cards(answer.text)[0]
    prompt = appliance.template.decode(engine.requests[-1].prompt_ids)
    whole = [*past, {"role": "user", "content": says("seen")}]
    assert prompt == appliance.template.decode(appliance.template.encode(whole, (tool,)))
    kept = olga.post(
        "/suites/keep",
        {"asked": state_of(answer.text)["asked"][0], "side": "0", "keep0-new": "replayed",
         "keep0-expected": "seen"},
    )  # fmt: skip
    assert kept.status_code == 303, kept.text
    (item,) = olga.api("GET", "/suites/replayed").json()["items"]
    assert item["messages"] == whole


def test_what_is_above_the_endpoints_label_is_not_asked_again(ground: Ground) -> None:
    path = replayable(ground, [{"role": "user", "content": "secret"}], label="secret")
    sam = Browser(ground, "sam", "operator", "secret")
    assert "above the endpoint" in html.unescape(sam.get(path, 403))


def test_a_rounds_two_sides_are_chosen(
    ground: Ground,
    olga: Browser,
    appliance: Appliance,  # noqa: F811
    adapters: list[Digest],  # noqa: F811
) -> None:
    number, _ = appliance.add_round(adapters[3])
    order = {"recipe": "r", "gates": "g", "suites": {}, "idle_s": 0}
    with ground.database.write() as connection:
        connection.execute(
            sa.text('update rounds set "order" = :order where round = :n'),
            {"order": json.dumps(order), "n": number},
        )
    page = olga.get(f"/talk?round={number}")
    assert f'<option value="{ALIAS}@{adapters[3]}" selected>' in page
    assert f'<option value="{BASE}" selected>' in page
    olga.get("/talk?round=99", 404)


def test_the_api_talks_too(olga: Browser) -> None:
    versions = olga.api("GET", "/talk/versions").json()
    assert BASE in [version["model"] for version in versions]
    ask = {"models": [BASE], "messages": [{"role": "user", "content": says("by the API")}]}
    (answer,) = olga.api("POST", "/talk", ask).json()
    assert answer["text"] == "by the API"
    streamed = events(olga.api("POST", "/talk/stream", ask))
    assert "".join(e.get("text", "") for e in streamed) == "by the API"
    assert olga.api("POST", "/talk", {"models": []}).status_code == 400


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
