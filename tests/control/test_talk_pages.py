"""The pages of Talk over the real gateway: with and without the script, and bad input."""

import html
import json
import re

import pytest
import sqlalchemy as sa

from appliance.control.steps import Ground
from appliance.core.digests import Digest
from tests.control.browser import Browser
from tests.control.talking import ASK, BASE, NASTY, cards, events, fields, says, state_of
from tests.serving.conftest import ALIAS, Appliance, GatewayProcess
from tests.serving.engine_simulator import EngineSimulator


@pytest.fixture
def ground(served: Ground) -> Ground:
    return served


def test_with_and_without_the_script_the_same_is_shown(
    olga: Browser, appliance: Appliance, gateway: GatewayProcess, adapters: list[Digest]
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
    page = olga.page(f"/talk?model={BASE}")
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


def test_a_stopped_engine_is_told_on_the_page(olga: Browser, engine: EngineSimulator) -> None:
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
    vera = Browser.signed_in(ground, "vera", "viewer")
    for answer in (
        vera.get("/talk"),
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


def test_a_rounds_two_sides_are_chosen(
    ground: Ground, olga: Browser, appliance: Appliance, adapters: list[Digest]
) -> None:
    number, _ = appliance.add_round(adapters[3])
    order = {"recipe": "r", "gates": "g", "suites": {}, "idle_s": 0}
    with ground.database.write() as connection:
        connection.execute(
            sa.text('update rounds set "order" = :order where round = :n'),
            {"order": json.dumps(order), "n": number},
        )
    page = olga.page(f"/talk?round={number}")
    assert f'<option value="{ALIAS}@{adapters[3]}" selected>' in page
    assert f'<option value="{BASE}" selected>' in page
    olga.page("/talk?round=99", 404)


def test_the_api_talks_too(olga: Browser) -> None:
    versions = olga.api("GET", "/talk/versions").json()
    assert BASE in [version["model"] for version in versions]
    ask = {"models": [BASE], "messages": [{"role": "user", "content": says("by the API")}]}
    (answer,) = olga.api("POST", "/talk", ask).json()
    assert answer["text"] == "by the API"
    streamed = events(olga.api("POST", "/talk/stream", ask))
    assert "".join(e.get("text", "") for e in streamed) == "by the API"
    assert olga.api("POST", "/talk", {"models": []}).status_code == 400
