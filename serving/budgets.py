"""Budgets per day and month, UTC: what is left of them, and when they are full again.

What is not here: rates per minute (policies/limits.py), and what requests under way set aside.
"""

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Literal, NamedTuple

from serving.limits import Limits
from serving.usage import Spent

DAY_S = 86_400
_EPOCH = date(1970, 1, 1).toordinal()
_KINDS: tuple[Literal["tokens", "units"], ...] = ("tokens", "units")


class Budget(NamedTuple):
    """One of the budgets that are set."""

    limit: str
    """Its name, e.g. ``tokens_per_day``."""
    kind: Literal["tokens", "units"]
    amount: float
    left: float
    full_again: int
    """The day on which it begins anew."""

    def __str__(self) -> str:
        return f"{shown(self.amount)} {self.limit.replace('_', ' ')}"


def budgets_of(limits: Limits, days: Mapping[int, Spent], today: int) -> Iterator[Budget]:
    """Every budget among these limits, after what was spent on these days."""
    begin = {"day": today, "month": month_begin(today)}
    end = {"day": today + 1, "month": _month_end(today)}
    for period, since in begin.items():
        for kind in _KINDS:
            limit = f"{kind}_per_{period}"
            amount = getattr(limits, limit)
            if amount is not None:
                left = amount - getattr(total(days, since), kind)
                yield Budget(limit, kind, amount, left, end[period])


def total(days: Mapping[int, Spent], since: int) -> Spent:
    """What was spent from that day on."""
    found = Spent()
    for day, spent in days.items():
        if day >= since:
            found.add(spent)
    return found


def shown(amount: float) -> str:
    """For people: 2000000 and 0.3, not 2e+06 and 0.30000000000000004."""
    return f"{amount:.12g}"


def month_begin(day: int) -> int:
    """The first day of its month."""
    return date.fromordinal(day + _EPOCH).replace(day=1).toordinal() - _EPOCH


def _month_end(day: int) -> int:
    begin = date.fromordinal(day + _EPOCH).replace(day=1)
    month_after = date(begin.year + begin.month // 12, begin.month % 12 + 1, 1)
    return month_after.toordinal() - _EPOCH
