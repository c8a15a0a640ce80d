"""Every page of the console in a real browser: for everybody, on every screen, with any text."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from appliance.control.console.guard import HEADERS
from tests.console.addresses import ERROR, FILES, NOBODY, pages, reader_of, routes
from tests.console.asking import Asker
from tests.console.browsing import Visitor
from tests.console.company import Company
from tests.console.company_words import NASTY, SCRIPT
from tests.console.plane import Plane

HTML_MAX = 150_000
ASSETS_MAX = 200_000
ROUTES = sorted(routes() - FILES)
THEMES = ("light", "dark")
AXE = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"],
    "resultTypes": ["violations"],
    "preload": False,
}
RUN_AXE = """async (options) => {
  const found = await axe.run(document, options);
  return found.violations.map((one) => [one.id, one.nodes.map((node) => node.html.slice(0, 200))]);
}"""
OVERFLOW = """async () => {
  // A chart follows the window some frames later.
  for (let n = 0; n < 60 && document.documentElement.scrollWidth > innerWidth; n++)
    await new Promise(requestAnimationFrame);
  const wide = [...document.querySelectorAll("main *")].filter((one) =>
    one.getBoundingClientRect().right > innerWidth + 1 && !one.closest(".scroll, [data-chart]"));
  return [document.documentElement.scrollWidth, wide.slice(0, 3).map((one) =>
    one.outerHTML.slice(0, 120))];
}"""
UNSEEN = """() => {
  const wrong = /[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069]/;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  for (let node = walker.nextNode(); node; node = walker.nextNode())
    if (wrong.test(node.data) && !node.parentElement.closest("textarea, script"))
      found.push(node.parentElement.outerHTML.slice(0, 200));
  return found;
}"""


@pytest.fixture(scope="module")
def rooms(browser: Browser, console: Plane) -> Iterator[dict[tuple[str, str], Visitor]]:
    """(theme or ``no script``, reader) → a browser of theirs."""
    entered: dict[tuple[str, str], Visitor] = {}
    for theme in (*THEMES, "no script"):
        for name in ("ada", "bela", NOBODY):
            scripted = theme != "no script"
            one = Visitor.enter(
                browser, console.url, theme=theme if scripted else "light", script=scripted
            )
            entered[theme, name] = one
            if name != NOBODY:
                first = entered[THEMES[0], name]
                one.sign_in(name) if one is first else one.come_with(first)
    yield entered
    for one in entered.values():
        one.leave()


def test_every_page_has_an_address(company: Company) -> None:
    assert set(pages(company)) | FILES == routes()


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("route", ROUTES)
def test_a_page_is_for_everybody_on_every_screen(
    route: str, theme: str, company: Company, rooms: dict[tuple[str, str], Visitor], axe: str
) -> None:
    one = rooms[theme, reader_of(route)]
    main, *others = pages(company)[route]
    # A state of a page is looked at in one theme: the colours are the same words.
    for path in [main, *others[THEMES.index(theme) :: 2]]:
        answer = one.open(path)
        assert answer.status == 200, f"{path}: {answer.status}"
        assert one.page.locator("html").get_attribute("data-theme") == theme
        assert one.page.locator("h1").count() == 1
        assert violations(one.page, axe) == [], path
        for width in (360, 2560):
            one.page.set_viewport_size({"width": width, "height": 900})
            scrolls, wide = one.page.evaluate(OVERFLOW)
            assert scrolls <= width, f"{path} scrolls sideways at {width}: {wide}"
            assert one.page.locator("h1").is_visible()
        one.page.set_viewport_size({"width": 1280, "height": 900})
        assert one.page.evaluate(UNSEEN) == [], f"{path} holds characters that nobody sees"
        assert one.page.evaluate("window.__xss") is None, f"{path} ran a script out of a text"
    one.require_clean()


@pytest.mark.parametrize("theme", THEMES)
def test_an_error_is_a_page_too(
    theme: str, rooms: dict[tuple[str, str], Visitor], axe: str
) -> None:
    one = rooms[theme, "ada"]
    assert one.open(ERROR).status == 404
    assert violations(one.page, axe) == []
    assert "next" in one.page.locator("main").inner_text().lower()
    one.require_clean()


@pytest.mark.parametrize("route", ROUTES)
def test_a_page_works_without_javascript(
    route: str, company: Company, rooms: dict[tuple[str, str], Visitor]
) -> None:
    one = rooms["no script", reader_of(route)]
    one.open(pages(company)[route][0])
    assert one.page.locator("h1").is_visible()
    if route != "/sign-in":
        assert one.page.locator("header.sidebar nav a").count() >= 9
    # Tables and forms are in the page, and no control waits for a script.
    tables = one.page.locator("main table, main form, main dl, main article, main svg")
    assert tables.count() > 0
    dead = "main button:not(form button):not([form]), main a[href='#'], main a:not([href])"
    assert one.page.locator(dead).filter(visible=True).count() == 0
    one.require_clean()


@pytest.mark.parametrize("route", ROUTES)
def test_a_page_is_small_and_guarded(route: str, company: Company, asker: dict[str, Asker]) -> None:
    for path in pages(company)[route]:
        answer = asker[reader_of(route)].get(path)
        assert answer.status == 200
        assert len(answer.body) < HTML_MAX, f"{path} has {len(answer.body)} bytes"
        assert answer.headers["cache-control"] in ("private, no-cache", "private, no-store")
        for name, value in HEADERS.items():
            assert answer.headers[name] == value
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert re.findall(r"<script(?![^>]*\bsrc=\"/static/)", answer.text) == []
        assert re.findall(r"\sstyle=|\son\w+=\"", re.sub(r">[^<]*<", "><", answer.text)) == []


@pytest.mark.parametrize("route", [one for one in ROUTES if one != "/sign-in"])
def test_a_page_is_for_those_who_signed_in(
    route: str, company: Company, asker: dict[str, Asker]
) -> None:
    answer = asker[NOBODY].get(pages(company)[route][0])
    assert (answer.status, answer.headers["location"].partition("?")[0]) == (303, "/sign-in")
    assert company.suite not in answer.text


def test_the_assets_are_few_and_kept_for_ever(asker: dict[str, Asker]) -> None:
    page = asker["ada"].get("/").text
    assets = set(re.findall(r"(?:src|href)=\"(/static/[^\"#]+)", page))
    answers = [asker[NOBODY].get(path) for path in assets]
    assert {answer.status for answer in answers} == {200}
    assert sum(len(answer.body) for answer in answers) < ASSETS_MAX
    assert {a.headers["cache-control"] for a in answers} == {"public, max-age=31536000, immutable"}


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_what_people_and_models_write_stays_text(
    text: str, company: Company, rooms: dict[tuple[str, str], Visitor]
) -> None:
    one = rooms["light", "ada"]
    number = NASTY.index(text)
    turn = f"/trajectories/{company.trajectory}?after={number + 3}"
    one.open(turn)
    shown = one.page.locator("main").inner_text()
    for character in text:
        # Line ends aside, what cannot be seen stands as a symbol or a code.
        if not character.isprintable() and character not in "\r\n\t":
            assert character not in shown, f"U+{ord(character):04X} stands as it is"
    for word in re.findall(r"[\w<>=:/]{4,}", text):
        assert word in shown
    assert one.page.evaluate("window.__xss") is None
    one.require_clean()


def test_script_in_a_name_a_comment_and_an_answer_is_inert(
    company: Company, rooms: dict[tuple[str, str], Visitor]
) -> None:
    one = rooms["dark", "bela"]
    for path in ("/people", f"/rounds/{company.waiting}/history", "/trajectories?text=window"):
        one.open(path)
        assert "window.__xss" in one.page.locator("main").inner_text()
        assert one.page.evaluate("window.__xss") is None
    one.open(f"/rounds/{company.waiting}/samples/{company.suite}/{company.item}")
    assert SCRIPT in one.page.locator("main").inner_text()
    one.require_clean()


@pytest.fixture(scope="module")
def asker(console: Plane) -> Iterator[dict[str, Asker]]:
    """People without a browser."""
    made = {name: Asker(console.url) for name in ("ada", "bela", NOBODY)}
    for name, one in made.items():
        if name != NOBODY:
            one.sign_in(name)
    yield made
    for one in made.values():
        one.close()


def violations(page: Page, axe: str) -> list[Any]:
    """What axe-core finds."""
    page.evaluate(axe)
    found = page.evaluate(RUN_AXE, AXE)
    return [json.dumps(one, ensure_ascii=False) for one in found]
