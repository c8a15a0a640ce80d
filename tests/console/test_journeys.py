"""What people come for, from the first sign-in to the roll-back, in a real browser, by keyboard
alone, on a whole appliance that really trains.

One story: each test goes on where the one before it ended.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from appliance.core.home import Home
from tests.console import pell_street
from tests.console.browsing import Visitor
from tests.console.company_law import PASSPHRASE
from tests.console.hands import Hands
from tests.control.conftest import Running
from tests.services.tiny import bring_tiny

pytestmark = pytest.mark.timeout(600)
STAFF = {"olga": "operator", "bela": "approver", "carl": "approver", "dora": "approver"}
_ROUND_S = 240.0


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Up on the tiny base, with an admin and nobody else."""
    scratch = tmp_path_factory.mktemp("pell-street")
    home = Home(scratch / "home")
    shutil.copytree(bring_tiny(), home.root)
    home.create()
    home.settings.write_text(
        '[gateway]\nport = 0\n[control]\nport = 0\n[engine]\nbase = "tiny"\nthreads = 1\n'
        "[assembly]\nidle_s = 1.0\n"
    )
    made = Running(home, scratch)
    secret = made.write("passphrase", PASSPHRASE)
    words = ("user", "add", "ada", "--role", "admin", "--new-passphrase-file", secret)
    assert made.run(*words).code == 0
    up = made.run("up", "--json")
    assert up.code == 0, up.message
    made.started = up.json
    yield made
    assert made.run("down").code == 0


@pytest.fixture
def enter(browser: Browser, appliance: Running) -> Iterator[Callable[[str], Hands]]:
    """Somebody's own browser, signed in by keyboard."""
    host, port = appliance.state["control"]
    opened: list[Visitor] = []

    def enter(name: str) -> Hands:
        visitor = Visitor.enter(browser, f"http://{host}:{port}")
        opened.append(visitor)
        hands = Hands(visitor)
        visitor.open("/")
        if name:
            hands.fill("Name", name)
            hands.sign()
            hands.press("Sign in")
            expect(visitor.page.get_by_role("heading", name="Overview")).to_be_visible()
        return hands

    yield enter
    for visitor in opened:
        visitor.require_clean()
        visitor.leave()


def test_1_the_first_sign_in(enter: Callable[[str], Hands]) -> None:
    hands = enter("")
    page = hands.visitor.page
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    hands.fill("Name", "ada")
    hands.fill("Passphrase", "not the right one")
    hands.press("Sign in")
    expect(page.get_by_role("alert")).to_contain_text("the name or the passphrase is wrong")
    hands.sign()
    hands.press("Sign in")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    expect(page.locator("#served")).to_contain_text("the base")
    hands.follow("People")
    for name, role in STAFF.items():
        hands.fill("Name", name)
        hands.choose("Role", role)
        hands.fill("Their first passphrase", PASSPHRASE)
        hands.sign()
        hands.press("Add")
        expect(page.get_by_role("row").filter(has_text=name)).to_contain_text(role)


def test_2_ten_answers_are_corrected(appliance: Running, enter: Callable[[str], Hands]) -> None:
    for kind, name, text in (
        *(("suite", name, text) for name, text in pell_street.suites().items()),
        ("gates", "gates", pell_street.GATES.format(remark="")),
        ("recipe", "recipe", pell_street.RECIPE),
    ):
        file = appliance.write(f"{name}.txt", text)
        done = appliance.run("law", "set", kind, file, "--name", name, person="olga")
        assert done.code == 0, done.message
    taught = pell_street.requests()[: pell_street.NUM_TAUGHT]
    for request, right in taught:
        assert say(appliance, request) != right
    hands = enter("bela")
    page = hands.visitor.page
    for request, right in taught:
        wait_for(lambda asked=request: found_trajectory(hands, asked), hands=hands)
        hands.follow("Correct or judge")
        hands.fill("What the answer should have been", right)
        hands.press("Save the correction")
        expect(page.get_by_text("Your correction is in the log")).to_be_visible()


def test_3_an_answer_is_kept_as_a_test(enter: Callable[[str], Hands]) -> None:
    hands = enter("dora")
    page = hands.visitor.page
    hands.follow("Talk")
    hands.choose("Version 1", "champion")
    hands.fill("Message 1", "quality: wrap 8 then wrap 8")
    hands.fill("Temperature (0: the likeliest)", "0")
    hands.press("Ask")
    expect(page.locator("[data-answers]")).to_contain_text("x %= 8")
    hands.unfold("Keep it as a test")
    hands.fill("Name of a new suite", "dora asks")
    hands.fill("Expected answer", "x += 8\nx += 8")
    hands.press("Keep the test")
    expect(page.get_by_text("Kept as a test")).to_be_visible()
    hands.follow("Suites")
    expect(page.get_by_role("row").filter(has_text="dora asks")).to_contain_text("dora")


def test_4_a_round_learns_it(
    appliance: Running, enter: Callable[[str], Hands], capsys: pytest.CaptureFixture[str]
) -> None:
    hands = enter("olga")
    page = hands.visitor.page
    hands.follow("Rounds")
    hands.unfold("Start a round")
    hands.fill("Seal what has been quiet for so many seconds", "0")
    hands.press("Start")
    expect(page.get_by_text("The round has started")).to_be_visible()
    expect(page.get_by_role("heading", name="Round 1")).to_contain_text(
        "Awaiting approval", timeout=_ROUND_S * 1000
    )
    hands.follow("Review the candidate")
    scorecard = appliance.run("review", "1", "--json").json["scorecard"]
    figures = {one["suite"]: one for one in scorecard["suites"]}
    expect(page.get_by_role("row").filter(has_text="dora asks")).to_contain_text("living")
    held_out, before = figures["quality"], figures["before"]
    with capsys.disabled():
        print(
            f"\nten corrections: held-out variants {held_out['champion_passed']} → "
            f"{held_out['candidate_passed']} of {held_out['num_items']}, protected "
            f"{before['champion_passed']} → {before['candidate_passed']} of {before['num_items']}, "
            f"kept test {figures['dora asks']['champion_passed']} → "
            f"{figures['dora asks']['candidate_passed']} of {figures['dora asks']['num_items']}"
        )
    assert held_out["champion_passed"] == 0
    assert held_out["candidate_passed"] > 0.9 * held_out["num_items"]
    assert before["candidate_passed"] > 0.95 * before["num_items"]


def test_5_an_author_is_refused(appliance: Running, enter: Callable[[str], Hands]) -> None:
    hands = enter("dora")
    page = hands.visitor.page
    hands.visitor.open("/rounds/1/checks")
    expect(page.locator("#decision")).to_contain_text("You are one of its authors")
    assert page.get_by_role("button", name="Approve", exact=True).count() == 0
    status, answer = appliance.control(
        "POST", "/rounds/1/decision", {"decision": "approve"}, sign_in=("dora", PASSPHRASE)
    )
    assert status == 403
    assert "nobody approves their own work" in answer["error"]["message"]


def test_6_a_stale_approval_is_dismissed(appliance: Running, enter: Callable[[str], Hands]) -> None:
    bela = enter("bela")
    approve(bela, "the held-out variants are right")
    olga = enter("olga")
    page = olga.visitor.page
    olga.visitor.open("/law/gates/gates")
    olga.fill("Text in force", pell_street.GATES.format(remark="# read again"))
    olga.press("Put in force")
    expect(page.get_by_text("The law has changed")).to_be_visible()
    olga.visitor.open("/rounds/1")
    olga.unfold("Make it again")
    olga.fill("Why", "the gates changed")
    olga.press("Make it again")
    expect(page.get_by_text("earlier decisions are dismissed")).to_be_visible()
    expect(page.get_by_role("heading", name="Round 1")).to_contain_text(
        "Awaiting approval", timeout=_ROUND_S * 1000
    )
    bela.visitor.open("/rounds/1/history")
    row = bela.visitor.page.get_by_role("row").filter(has_text="the held-out variants")
    expect(row.first).to_contain_text("Dismissed")
    # A form that was opened before is for a candidate that is not there any more.
    assert appliance.run("review", "1", "--json").json["signed"] == 0


def test_7_two_people_approve_and_it_serves(
    appliance: Running, enter: Callable[[str], Hands]
) -> None:
    approve(enter("bela"), "read again")
    hands = enter("carl")
    approve(hands, "so did I")
    wait_for(lambda: appliance.run("review", "1", "--json").json["state"] == "released")
    hands.visitor.open("/")
    expect(hands.visitor.page.locator("#served")).to_contain_text("adapter 1")
    request, right = pell_street.requests()[-1]
    assert say(appliance, request) == right


def test_8_somebody_rolls_back(appliance: Running, enter: Callable[[str], Hands]) -> None:
    hands = enter("bela")
    page = hands.visitor.page
    hands.follow("Releases")
    hands.unfold("Roll back")
    hands.fill("Why", "the desk wants the old meaning until Monday")
    hands.sign()
    page.keyboard.press("Enter")
    expect(page.get_by_text("Rolled back")).to_be_visible()
    expect(page.locator("#now")).to_contain_text("the base")
    expect(page.get_by_role("row").filter(has_text="until Monday")).to_contain_text("bela")
    request, right = pell_street.requests()[-1]
    assert say(appliance, request) != right


def approve(hands: Hands, comment: str) -> None:
    """Open the review, approve with a comment, sign."""
    page = hands.visitor.page
    hands.visitor.open("/rounds/1/checks")
    hands.unfold("Approve")
    hands.fill("Comment", comment)
    hands.sign()
    page.keyboard.press("Enter")
    expect(page.get_by_text("Your approval is recorded")).to_be_visible()


def found_trajectory(hands: Hands, request: str) -> bool:
    """Search for a request and open what is found, if it is there already."""
    hands.visitor.open("/trajectories")
    hands.fill("Text", request)
    hands.visitor.page.keyboard.press("Enter")
    hands.visitor.page.wait_for_url("**text=**")
    link = hands.visitor.page.locator("main table tbody a").first
    if link.count() == 0:
        return False
    hands.reach(link)
    hands.visitor.page.keyboard.press("Enter")
    hands.visitor.page.wait_for_url("**/trajectories/**")
    return True


def say(appliance: Running, request: str) -> str:
    """What an agent is answered."""
    body: dict[str, Any] = {
        "model": "company-model",
        "messages": [{"role": "user", "content": request}],
        "max_tokens": 32,
        "temperature": 0,
    }
    status, answer = appliance.post("/chat/completions", body)
    assert status == 200, answer
    return str(answer["choices"][0]["message"]["content"])


def wait_for(
    condition: Callable[[], bool], timeout_s: float = 60.0, *, hands: Hands | None = None
) -> None:
    """Until it holds; else say what was on the page."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        shown = hands.visitor.page.locator("main").inner_text() if hands else "it never came"
        assert time.monotonic() < deadline, shown[:1500]
        time.sleep(0.3)
