"""Who may still ask: counts against the limits of key, agent and team, and refuses with a 429.

A request reserves the most that it can use, and is settled at its end with what it used; so no
budget is ever exceeded. Lives on the gateway's event loop: plain counters, no locks around them.
"""

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Literal

from appliance.core.database import Database
from appliance.core.errors import UnavailableError
from appliance.core.settings import Prices
from policies.limits import Bucket
from serving import usage
from serving.budgets import DAY_S, Budget, budgets_of, month_begin, shown
from serving.keys import Key, Scope
from serving.limits import Limits, list_limits
from serving.openai_errors import ApiError
from serving.usage import Batch, Spent

_FREE = Limits()
_ROUNDING = 1e-9
"""Units that sums of fractions may be off by."""
_log = logging.getLogger("espalier.quota")


class _Meter:
    """What one scope uses."""

    def __init__(self) -> None:
        self.requests = Bucket()
        self.tokens = Bucket()
        self.days: dict[int, Spent] = defaultdict(Spent)
        """Of this month."""
        self.reserved_tokens = 0
        self.reserved_units = 0.0


class Quota:
    """All limits and what was used of them, in memory."""

    def __init__(
        self, database: Database, prices: Prices, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._prices = prices
        self._clock = clock
        self._meters: dict[Scope, _Meter] = defaultdict(_Meter)
        self._unsaved: Batch = defaultdict(Spent)
        self._limits: dict[Scope, Limits] = {}
        self.reload()
        for scopes, day, spent in usage.load(database, since_day=month_begin(self._today)):
            for scope in scopes:
                self._meters[scope].days[day].add(spent)

    def reload(self) -> None:
        """Read the limits again."""
        self._limits = list_limits(self._database)

    def count_request(self, key: Key) -> None:
        """Count one request, before anything is done for it.

        Raises:
            ApiError: 429; too many in this minute.
        """
        now = self._clock()
        limited = [
            (scope, self._meters[scope].requests, limits.requests_per_minute)
            for scope, limits in self._of(key)
            if limits.requests_per_minute is not None
        ]
        for scope, bucket, rate in limited:
            if wait_s := bucket.wait_s(1, rate, now):
                raise self._too_fast(key, scope, "requests", rate, wait_s)
        for _, bucket, rate in limited:
            bucket.take(1, rate, now)

    def reserve(self, key: Key, *, prompt_tokens: int, max_new_tokens: int) -> "Charge":
        """Set aside the most that a request can use.

        Raises:
            ApiError: 429; too many tokens in this minute, or more than a budget has left.
        """
        now = self._clock()
        tokens = prompt_tokens + max_new_tokens
        units = self._units(prompt_tokens, max_new_tokens)
        for scope, limits in self._of(key):
            for budget in self._budgets(scope, limits):
                asked = tokens if budget.kind == "tokens" else units
                if asked > budget.left + _ROUNDING:
                    fits = self._fitting(key, prompt_tokens)
                    raise _used_up(scope, budget, asked, prompt_tokens, fits, now)
            rate = limits.tokens_per_minute
            if rate and (wait_s := self._meters[scope].tokens.wait_s(tokens, rate, now)):
                raise self._too_fast(key, scope, "tokens", rate, wait_s)
        for scope in key.scopes:
            meter = self._meters[scope]
            meter.reserved_tokens += tokens
            meter.reserved_units += units
            if rate := self._limits.get(scope, _FREE).tokens_per_minute:
                meter.tokens.take(tokens, rate, now)
        return Charge(self, key, tokens, units)

    def settle(self, charge: "Charge", prompt_tokens: int, completion_tokens: int) -> None:
        """What a charge does at its end."""
        used = Spent(
            requests=1,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            units=self._units(prompt_tokens, completion_tokens),
        )
        today = self._today
        for scope in charge.key.scopes:
            meter = self._meters[scope]
            meter.reserved_tokens -= charge.tokens
            meter.reserved_units -= charge.units
            meter.tokens.give_back(charge.tokens - used.tokens)
            if today not in meter.days:
                begin = month_begin(today)
                for past in [day for day in meter.days if day < begin]:
                    del meter.days[past]
            meter.days[today].add(used)
        self._unsaved[charge.key.key_id, today].add(used)

    def headers(self, key: Key) -> dict[str, str]:
        """OpenAI's ``x-ratelimit-*``, of the limits with the least left; empty without limits."""
        if not self._limits:
            return {}
        now = self._clock()
        shown: dict[str, str] = {}
        for kind in ("requests", "tokens"):
            rates = [
                (max(0.0, bucket.left(rate, now)), rate, bucket.wait_s(rate, rate, now))
                for scope, limits in self._of(key)
                if (rate := getattr(limits, f"{kind}_per_minute")) is not None
                for bucket in [getattr(self._meters[scope], kind)]
            ]
            if rates:
                left, rate, full_in_s = min(rates)
                shown[f"x-ratelimit-limit-{kind}"] = str(math.floor(rate))
                shown[f"x-ratelimit-remaining-{kind}"] = str(math.floor(left))
                shown[f"x-ratelimit-reset-{kind}"] = f"{full_in_s:.3f}s"
        return shown

    async def save(self) -> None:
        """Write what is not in the database yet. On a full disk it waits for the next time."""
        batch, self._unsaved = self._unsaved, defaultdict(Spent)
        if not batch:
            return
        try:
            await asyncio.to_thread(usage.save, self._database, batch)
        except UnavailableError as error:
            _log.warning("what was used is not written yet: %s", error.message)
            for at, spent in batch.items():
                self._unsaved[at].add(spent)

    @property
    def _today(self) -> int:
        return int(self._clock() // DAY_S)

    def _of(self, key: Key) -> list[tuple[Scope, Limits]]:
        if not self._limits:
            return []
        return [(scope, self._limits[scope]) for scope in key.scopes if scope in self._limits]

    def _units(self, prompt_tokens: int, completion_tokens: int) -> float:
        prices = self._prices
        return (prompt_tokens * prices.prompt + completion_tokens * prices.completion) / 1e6

    def _budgets(self, scope: Scope, limits: Limits) -> Iterator[Budget]:
        """With what is left when all that is under way uses all that it may."""
        meter = self._meters[scope]
        for budget in budgets_of(limits, meter.days, self._today):
            reserved = getattr(meter, f"reserved_{budget.kind}")
            yield budget._replace(left=budget.left - reserved)

    def _fitting(self, key: Key, prompt_tokens: int) -> int:
        """The most new tokens after this prompt that all budgets have room for; below 1 is none."""
        of_prompt = {"tokens": float(prompt_tokens), "units": self._units(prompt_tokens, 0)}
        of_token = {"tokens": 1.0, "units": self._units(0, 1)}
        rooms = []
        for scope, limits in self._of(key):
            for budget in self._budgets(scope, limits):
                rest = budget.left - of_prompt[budget.kind]
                each = of_token[budget.kind]
                # What costs nothing fits as long as the prompt does.
                rooms.append(rest / each if each else math.copysign(math.inf, rest))
        return math.floor(max(0.0, min(rooms)))

    def _too_fast(
        self,
        key: Key,
        scope: Scope,
        kind: Literal["requests", "tokens"],
        rate: float,
        wait_s: float,
    ) -> ApiError:
        return ApiError(
            429,
            f"{scope} may use {shown(rate)} {kind} per minute; "
            f"there is room again in {wait_s:.1f} s",
            kind=kind,
            code="rate_limit_exceeded",
            headers={"retry-after": str(math.ceil(wait_s)), **self.headers(key)},
        )


class Charge:
    """What one request may use. Settle it once, whatever becomes of the request."""

    def __init__(self, quota: Quota, key: Key, tokens: int, units: float) -> None:
        self.key = key
        self.tokens = tokens
        self.units = units
        self._quota = quota

    def settle(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Count what was used, and give the rest back."""
        self._quota.settle(self, prompt_tokens, completion_tokens)


def _used_up(
    scope: Scope, budget: Budget, asked: float, prompt_tokens: int, fits: int, now: float
) -> ApiError:
    end = budget.full_again * DAY_S
    would = (
        f"max_tokens {fits} would fit, over all choices"
        if fits
        else f"nothing fits after a prompt of {prompt_tokens} tokens"
    )
    return ApiError(
        429,
        f"the budget of {scope}, {budget}, has {shown(max(0.0, budget.left))} left and this "
        f"request may use {shown(asked)}: {would}; it is full again on "
        f"{datetime.fromtimestamp(end, UTC):%Y-%m-%d %H:%M} UTC",
        kind="insufficient_quota",
        code="insufficient_quota",
        # Clients that try a 429 again by themselves leave this one alone.
        headers={"retry-after": str(math.ceil(end - now)), "x-should-retry": "false"},
    )
