"""Limits of key, agent and team: rates per minute, budgets per day and month, what survives."""

import asyncio
import time

import pytest

from appliance.core import audit
from appliance.core.database import Database
from appliance.core.errors import NotFoundError, UnavailableError, UsageError
from appliance.core.settings import Prices
from policies.limits import Bucket, has_room
from serving import usage
from serving.keys import Scope
from serving.limits import Limits, list_limits, set_limits
from serving.quota import Quota
from tests.serving.metering import MIDNIGHT, Clock, ask, limited, make_key, refused


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_rate_of_requests_refills_evenly(database: Database, clock: Clock) -> None:
    key = make_key(database)
    quota = limited(database, Scope("key", key.key_id), clock, requests_per_minute=6)
    for _ in range(6):
        ask(quota, key)
    error = refused(quota, key)
    assert error.code == "rate_limit_exceeded"
    assert f"key {key.key_id!r} may use 6 requests per minute" in error.message
    assert "again in 10.0 s" in error.message
    assert error.headers == {
        "retry-after": "10",
        "x-ratelimit-limit-requests": "6",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "60.000s",
    }
    clock.now += 9.9
    refused(quota, key)
    clock.now += 0.1
    ask(quota, key)
    refused(quota, key)
    clock.now += 3600
    for _ in range(6):
        ask(quota, key)
    refused(quota, key)


def test_a_rate_of_tokens_counts_what_was_used_not_what_was_reserved(
    database: Database, clock: Clock
) -> None:
    key = make_key(database)
    quota = limited(database, Scope("key", key.key_id), clock, tokens_per_minute=100)
    first = quota.reserve(key, prompt_tokens=20, max_new_tokens=60)
    assert "100 tokens per minute" in refused(quota, key, prompt=20, new=20).message
    assert quota.headers(key)["x-ratelimit-remaining-tokens"] == "20"
    first.settle(20, 5)
    assert quota.headers(key)["x-ratelimit-remaining-tokens"] == "75"
    ask(quota, key, prompt=20, new=20)


def test_more_than_a_minutes_tokens_at_once_is_owed(database: Database, clock: Clock) -> None:
    key = make_key(database)
    quota = limited(database, Scope("key", key.key_id), clock, tokens_per_minute=60)
    ask(quota, key, prompt=20, new=160)
    assert refused(quota, key, prompt=1, new=0).headers["retry-after"] == "121"
    clock.now += 121
    ask(quota, key, prompt=1, new=0)


def test_a_budget_is_never_exceeded_and_comes_back_the_next_day(
    database: Database, clock: Clock
) -> None:
    key = make_key(database)
    quota = limited(database, Scope("key", key.key_id), clock, tokens_per_day=100)
    under_way = quota.reserve(key, prompt_tokens=30, max_new_tokens=30)
    error = refused(quota, key, prompt=40, new=1)
    assert (error.kind, error.code) == ("insufficient_quota", "insufficient_quota")
    assert "100 tokens per day, has 40 left and this request may use 41" in error.message
    assert "2026-12-01 00:00 UTC" in error.message
    assert error.headers == {"retry-after": str(23 * 3600), "x-should-retry": "false"}
    under_way.settle(30, 0)
    ask(quota, key, prompt=40, new=30)
    refused(quota, key, prompt=1, new=0)
    clock.now = MIDNIGHT + 86_400
    ask(quota, key, prompt=40, new=60)


def test_a_month_ends_with_its_last_day(database: Database, clock: Clock) -> None:
    key = make_key(database)
    quota = limited(database, Scope("key", key.key_id), clock, tokens_per_month=100)
    clock.now = MIDNIGHT - 86_400 * 3
    ask(quota, key, prompt=50, new=0)
    clock.now = MIDNIGHT + 86_399
    ask(quota, key, prompt=50, new=0)
    assert refused(quota, key).headers["retry-after"] == "1"
    clock.now += 1
    ask(quota, key, prompt=100, new=0)


def test_units_are_money_like(database: Database, clock: Clock) -> None:
    key = make_key(database)
    prices = Prices(prompt=1000.0, completion=3000.0)
    quota = limited(database, Scope("key", key.key_id), clock, prices, units_per_month=1.0)
    ask(quota, key, prompt=400, new=200, used=100)  # 0.4 + 0.3, of 1.0 reserved
    assert "1 units per month, has 0.3 left" in refused(quota, key, prompt=301, new=0).message
    ask(quota, key, prompt=0, new=100)
    refused(quota, key, prompt=1, new=0)


@pytest.mark.parametrize("scope", [Scope("team", "t"), Scope("agent", "a")], ids=str)
def test_a_teams_or_agents_limit_is_the_sum_over_its_keys(
    database: Database, clock: Clock, scope: Scope
) -> None:
    one, two = make_key(database), make_key(database)
    other = make_key(database, team="u", agent="b")
    quota = limited(database, scope, clock, tokens_per_day=100, requests_per_minute=2)
    ask(quota, one, prompt=50, new=0)
    assert str(scope) in refused(quota, two, prompt=51, new=0).message
    ask(quota, other, prompt=1000, new=0)
    assert "per minute" in refused(quota, two, prompt=1, new=0).message
    assert quota.headers(other) == {}


def test_what_was_used_survives_a_restart(database: Database, clock: Clock) -> None:
    key = make_key(database)
    scope = Scope("team", "t")
    quota = limited(database, scope, clock, tokens_per_month=100)
    clock.now -= 86_400
    ask(quota, key, prompt=30, new=0)
    asyncio.run(quota.save())
    clock.now += 86_400
    ask(quota, key, prompt=20, new=10)
    asyncio.run(quota.save())
    asyncio.run(quota.save())
    again = Quota(database, Prices(), clock)
    assert "has 40 left" in refused(again, key, prompt=41, new=0).message
    ask(again, key, prompt=40, new=0)


def test_usage_that_could_not_be_written_is_written_later(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_key(database)
    quota = Quota(database, Prices(), clock)
    ask(quota, key, prompt=1, new=2)

    def full(*_: object) -> None:
        raise UnavailableError("no space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(usage, "save", full)
        asyncio.run(quota.save())
    assert usage.load(database, since_day=0) == []
    ask(quota, key, prompt=3, new=4)
    asyncio.run(quota.save())
    ((_, _, spent),) = usage.load(database, since_day=0)
    assert (spent.requests, spent.prompt_tokens, spent.completion_tokens) == (2, 4, 6)


def test_a_limit_is_changed_taken_away_and_audited(database: Database) -> None:
    key = make_key(database)
    scope = Scope("key", key.key_id)
    set_limits(database, scope, {"tokens_per_day": 5, "requests_per_minute": 1}, actor="ada")
    left = set_limits(database, scope, {"tokens_per_day": None}, actor="ada")
    assert left == Limits(requests_per_minute=1)
    assert list_limits(database) == {scope: left}
    with database.read() as connection:
        acts = [(e.act, e.subject, e.detail) for e in audit.entries(connection)][1:]
    assert acts[1] == ("key.limit", str(scope), {"tokens_per_day": None})


@pytest.mark.parametrize("amount", [0, -1, float("inf"), float("nan")])
def test_a_limit_that_is_none(database: Database, amount: float) -> None:
    key = make_key(database)
    with pytest.raises(UsageError, match="above 0"):
        set_limits(database, Scope("key", key.key_id), {"tokens_per_day": amount}, actor="ada")
    assert list_limits(database) == {}


@pytest.mark.parametrize("kind", ["key", "agent", "team"])
def test_a_limit_on_nobody_is_an_error(database: Database, kind: str) -> None:
    make_key(database)
    with pytest.raises(NotFoundError):
        set_limits(database, Scope(kind, "typo"), {"tokens_per_day": 1}, actor="ada")  # type: ignore[arg-type]


def test_the_clock_may_go_back() -> None:
    bucket = Bucket()
    bucket.take(60, 60, time.time())
    assert bucket.wait_s(1, 60, time.time() - 3600) == pytest.approx(1.0)


def test_no_key_takes_all_the_room() -> None:
    held: dict[str, int] = {}

    def fill(key: str, bound: int = 100) -> int:
        while has_room(
            bound=bound,
            total=sum(held.values()),
            held=held.get(key, 0),
            keys=len(held.keys() | {key}),
        ):
            held[key] = held.get(key, 0) + 1
        return held.get(key, 0)

    assert fill("greedy") == 75
    assert fill("second") == 25
    assert fill("third") == 0
    held["greedy"] -= 1
    assert fill("third") == 1


def test_the_smallest_room_is_one() -> None:
    assert has_room(bound=1, total=0, held=0, keys=1)
    assert not has_room(bound=1, total=1, held=0, keys=2)
