"""What a key may still ask: said in the refusal of a budget, and in the headers of a rate."""

import re

import pytest

from appliance.core.database import Database
from appliance.core.settings import Prices
from serving.keys import Scope
from serving.limits import set_limits
from tests.serving.metering import Clock, ask, limited, make_key, refused


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        (88, "max_tokens 312 would fit, over all choices"),
        (399, "max_tokens 1 would fit"),
        (400, "nothing fits after a prompt of 400 tokens"),
        (5000, "nothing fits after a prompt of 5000 tokens"),
    ],
)
def test_a_used_up_budget_says_what_would_fit(
    database: Database, clock: Clock, prompt: int, says: str
) -> None:
    key = make_key(database)
    quota = limited(database, Scope("key", key.key_id), clock, tokens_per_day=400)
    assert says in refused(quota, key, prompt=prompt, new=401).message
    if fits := re.match(r"max_tokens (\d+)", says):
        ask(quota, key, prompt=prompt, new=int(fits[1]))


@pytest.mark.parametrize(
    ("prices", "says"),
    [
        (Prices(prompt=1000.0, completion=3000.0), "max_tokens 93 would fit"),
        (Prices(prompt=1000.0), "max_tokens 180 would fit"),
        (Prices(prompt=1e6), "nothing fits"),
    ],
    ids=["units", "tokens", "the prompt"],
)
def test_what_would_fit_is_what_the_tightest_budget_has_left(
    database: Database, clock: Clock, prices: Prices, says: str
) -> None:
    key = make_key(database)
    set_limits(database, Scope("team", "t"), {"tokens_per_month": 200}, actor="test")
    quota = limited(database, Scope("key", key.key_id), clock, prices, units_per_day=0.3)
    message = refused(quota, key, prompt=20, new=1000).message
    assert says in message
    if fits := re.search(r"max_tokens (\d+)", message):
        refused(quota, key, prompt=20, new=int(fits[1]) + 1)
        ask(quota, key, prompt=20, new=int(fits[1]))


def test_large_amounts_are_written_out(database: Database, clock: Clock) -> None:
    key = make_key(database)
    quota = limited(database, Scope("key", key.key_id), clock, tokens_per_day=2_000_000)
    ask(quota, key, prompt=0, new=1)
    message = refused(quota, key, prompt=0, new=2_000_001).message
    assert "2000000 tokens per day, has 1999999 left" in message


@pytest.mark.parametrize(
    ("used", "waited_s", "left", "reset"),
    [(0, 0.0, "60", "0.000s"), (30, 10.0, "40", "20.000s"), (180, 0.0, "0", "180.000s")],
    ids=["nothing used", "half, and some came back", "more than a minute's, owed"],
)
def test_a_limit_resets_when_it_is_back_to_its_initial_state(
    database: Database, clock: Clock, used: int, waited_s: float, left: str, reset: str
) -> None:
    """As OpenAI's documentation of its headers has it."""
    key = make_key(database)
    quota = limited(database, Scope("key", key.key_id), clock, tokens_per_minute=60)
    ask(quota, key, prompt=used, new=0)
    clock.now += waited_s
    assert quota.headers(key) == {
        "x-ratelimit-limit-tokens": "60",
        "x-ratelimit-remaining-tokens": left,
        "x-ratelimit-reset-tokens": reset,
    }
    clock.now += float(reset.removesuffix("s"))
    assert quota.headers(key)["x-ratelimit-remaining-tokens"] == "60"
