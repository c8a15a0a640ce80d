"""A key, its limits, and one request after the other against them."""

import calendar

import pytest

from appliance.core.database import Database
from appliance.core.settings import Prices
from serving.keys import Key, Scope, add_key
from serving.limits import set_limits
from serving.openai_errors import ApiError
from serving.quota import Quota

MIDNIGHT = float(calendar.timegm((2026, 11, 30, 0, 0, 0)))
"""The last day of a month begins."""


class Clock:
    def __init__(self) -> None:
        self.now = MIDNIGHT + 3600

    def __call__(self) -> float:
        return self.now


def make_key(database: Database, team: str = "t", agent: str = "a") -> Key:
    return add_key(
        database, team=team, project="p", agent=agent, label="internal", exact=False, actor="test"
    )[1]


def limited(
    database: Database, scope: Scope, clock: Clock, prices: Prices | None = None, **amounts: float
) -> Quota:
    set_limits(database, scope, amounts, actor="test")
    return Quota(database, prices or Prices(), clock)


def ask(quota: Quota, key: Key, prompt: int = 10, new: int = 10, used: int | None = None) -> None:
    """One request from its begin to its end; it uses all that it may, or `used`."""
    quota.count_request(key)
    charge = quota.reserve(key, prompt_tokens=prompt, max_new_tokens=new)
    charge.settle(prompt, new if used is None else used)


def refused(quota: Quota, key: Key, **asked: int) -> ApiError:
    with pytest.raises(ApiError) as caught:
        ask(quota, key, **asked)
    assert caught.value.status == 429
    return caught.value
