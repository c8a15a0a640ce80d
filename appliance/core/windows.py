"""Times of the week, written as ``22:00-06:00, sat, mon-fri 20:00-24:00``. The clock is given."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOUR = 60
_DAY = 24 * _HOUR
_WEEK = 7 * _DAY
_EXAMPLE = "22:00-06:00, sat, mon-fri 20:00-24:00"
_ENTRY = re.compile(
    r"(?:(?P<first>[a-z]+)(?:-(?P<last>[a-z]+))?)?"
    r"(?:(?(first) +)(?P<begin>\d{1,2}:\d\d)-(?P<end>\d{1,2}:\d\d))?"
)


@dataclass(frozen=True, slots=True)
class Windows:
    """When something may happen; no spans: always."""

    spans: tuple[tuple[int, int], ...] = ()
    """(minute of the week, Monday 00:00 being 0; how many minutes)."""

    def open_at(self, now: datetime) -> bool:
        """Whether `now`, a local time, lies in a window."""
        minute = _minute_of_week(now)
        return not self.spans or any((minute - begin) % _WEEK < long for begin, long in self.spans)

    def waits(self, now: datetime) -> str:
        """What is waited for, in words; empty while a window is open."""
        if self.open_at(now):
            return ""
        minute = _minute_of_week(now)
        left = min((begin - minute) % _WEEK for begin, _ in self.spans)
        opens = now + timedelta(minutes=left)
        day = f"on {opens:%A} " if left > _DAY else ""
        return f"waiting for the window that opens {day}at {opens:%H:%M}"


def parse_windows(text: str) -> Windows:
    """Read windows. Hours that run past midnight belong to the day on which they begin.

    Raises:
        ValueError: not of that form; says what is expected.
    """
    entries = [entry.strip() for entry in text.lower().split(",")] if text.strip() else []
    return Windows(tuple(span for entry in entries for span in _spans(entry)))


def _spans(entry: str) -> list[tuple[int, int]]:
    found = _ENTRY.fullmatch(entry)
    if not entry or found is None:
        raise ValueError(f"expected days, hours or both, like {_EXAMPLE!r}, got {entry!r}")
    first, last, begin, end = found.groups()
    days = _days(first, last or first) if first else range(7)
    start, stop = (_minute(begin), _minute(end)) if begin else (0, _DAY)
    if start in (stop, _DAY):
        raise ValueError(f"{entry!r} is no time at all; a whole day is its name, like sat")
    return [(day * _DAY + start, (stop - start) % _DAY or _DAY) for day in days]


def _days(first: str, last: str) -> list[int]:
    for name in (first, last):
        if name not in _DAYS:
            raise ValueError(f"expected a day ({', '.join(_DAYS)}), got {name!r}")
    begin, end = _DAYS.index(first), _DAYS.index(last)
    return [(begin + offset) % 7 for offset in range((end - begin) % 7 + 1)]


def _minute(text: str) -> int:
    hours, minutes = map(int, text.split(":"))
    if minutes >= _HOUR or hours * _HOUR + minutes > _DAY:
        raise ValueError(f"expected a time from 00:00 to 24:00, got {text!r}")
    return hours * _HOUR + minutes


def _minute_of_week(now: datetime) -> int:
    return now.weekday() * _DAY + now.hour * _HOUR + now.minute
