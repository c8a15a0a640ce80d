"""Who does not see the endpoint's label gets the figures of a round, and none of its words."""

from collections.abc import Iterator

import msgspec
import pytest
import sqlalchemy as sa

from appliance.control.steps import Ground
from appliance.core import audit
from appliance.core.database import Database
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.settings import Gateway, Settings
from appliance.core.tables import rounds
from tests.control.browser import Browser
from tests.control.reviewing import Asked, a_round, said

WORD = "zanzibar"


@pytest.fixture
def ground(home: Home, database: Database, store: ObjectStore) -> Ground:
    """A round whose reason, log, comment and canary all say the word."""
    made = Ground(home, Settings(gateway=Gateway(label="secret/finance")), database, store)
    asked = [
        Asked("quality").add("1", said("b", "failed"), said("a")),
        Asked(f"canary:{WORD}", "canary").add("1", said("a"), said("a")),
    ]
    number = a_round(made, asked, label="secret/finance")
    (home.rounds / str(number) / "train.err").write_text(f"warning: {WORD}\n")
    with database.write() as connection:
        order = connection.scalar(sa.select(rounds.c.order))
        # Canaries are made from the data while it is evaluated: no law names them.
        plain = msgspec.json.encode({**msgspec.json.decode(order), "suites": {}}).decode()
        connection.execute(sa.update(rounds).values(reason=f"harm on {WORD}", order=plain))
        audit.record(
            connection, actor="bela", act="round.reject", subject=str(number), at=1.0,
            comment=f"because of {WORD}",
        )  # fmt: skip
    return made


@pytest.fixture
def low(ground: Ground) -> Iterator[Browser]:
    browser = Browser.signed_in(ground, "vera", "viewer", "public")
    yield browser
    browser.client.close()


@pytest.fixture
def high(ground: Ground) -> Iterator[Browser]:
    browser = Browser.signed_in(ground, "olga", "operator", "secret/finance")
    yield browser
    browser.client.close()


PAGES = ("/", "/rounds", "/rounds/1", "/rounds/1/checks", "/rounds/1/history", "/audit")
ROUTES = ("/rounds", "/rounds/1", "/rounds/1/review", "/audit", "/overview")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_hides_the_word_from_who_may_not_read_it(
    low: Browser, high: Browser, path: str
) -> None:
    assert WORD in high.page(path)
    assert WORD not in low.page(path)


@pytest.mark.parametrize("route", ROUTES)
def test_the_api_hides_what_the_page_hides(low: Browser, high: Browser, route: str) -> None:
    assert WORD in high.api("GET", route).text
    answer = low.api("GET", route)
    assert answer.status_code == 200
    assert WORD not in answer.text
