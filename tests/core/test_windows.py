"""Time windows: what is read, what is refused, when they are open, what is waited for."""

from datetime import datetime, timedelta

import pytest

from appliance.core.errors import SettingsError
from appliance.core.home import Home
from appliance.core.settings import load_settings
from appliance.core.windows import parse_windows

_MONDAY = datetime(2026, 11, 16)


def at(day: str, time: str) -> datetime:
    hours, minutes = map(int, time.split(":"))
    days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun").index(day)
    return _MONDAY + timedelta(days=days, hours=hours, minutes=minutes)


@pytest.mark.parametrize(
    ("text", "day", "time", "is_open"),
    [
        ("", "wed", "12:00", True),
        ("22:00-06:00", "wed", "21:59", False),
        ("22:00-06:00", "wed", "22:00", True),
        ("22:00-06:00", "thu", "05:59", True),
        ("22:00-06:00", "thu", "06:00", False),
        ("22:00-06:00", "mon", "03:00", True),  # Sunday's, past the week's end
        ("sat", "sat", "00:00", True),
        ("sat", "sat", "23:59", True),
        ("sat", "sun", "00:00", False),
        ("fri 20:00-04:00", "sat", "03:59", True),
        ("fri 20:00-04:00", "fri", "03:59", False),
        ("sun 20:00-04:00", "mon", "03:59", True),
        ("fri-mon", "sun", "12:00", True),
        ("fri-mon", "tue", "00:00", False),
        ("mon-fri 20:00-24:00, sat", "wed", "23:59", True),
        ("mon-fri 20:00-24:00, sat", "thu", "00:00", False),
        ("mon-fri 20:00-24:00, sat", "sat", "12:00", True),
        (" MON 8:00-9:00 ", "mon", "08:30", True),
    ],
)
def test_when_they_are_open(text: str, day: str, time: str, is_open: bool) -> None:
    assert parse_windows(text).open_at(at(day, time)) is is_open


@pytest.mark.parametrize(
    ("text", "day", "time", "waits"),
    [
        ("", "wed", "12:00", ""),
        ("22:00-06:00", "wed", "23:00", ""),
        ("22:00-06:00", "wed", "12:00", "waiting for the window that opens at 22:00"),
        ("8:00-9:00", "wed", "12:00", "waiting for the window that opens at 08:00"),
        ("sat", "wed", "12:00", "waiting for the window that opens on Saturday at 00:00"),
        ("mon 8:00-9:00, sat", "sun", "12:00", "waiting for the window that opens at 08:00"),
    ],
)
def test_what_is_waited_for(text: str, day: str, time: str, waits: str) -> None:
    assert parse_windows(text).waits(at(day, time)) == waits


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nights", "expected a day .*got 'nights'"),
        ("mon-someday", "expected a day .*got 'someday'"),
        ("22-06", "expected days, hours or both.*got '22-06'"),
        ("22:00", "expected days, hours or both"),
        ("mon22:00-23:00", "expected days, hours or both"),
        ("sat,", "expected days, hours or both.*got ''"),
        ("sat; sun", "expected days, hours or both"),
        ("22:00-24:01", "expected a time from 00:00 to 24:00, got '24:01'"),
        ("22:60-23:00", "got '22:60'"),
        ("10:00-10:00", "no time at all"),
        ("24:00-06:00", "no time at all"),
    ],
)
def test_what_is_refused_stops_the_start_and_says_what_is_expected(
    home: Home, text: str, expected: str
) -> None:
    home.settings.write_text(f'[gpu]\nwindows = "{text}"\n')
    with pytest.raises(SettingsError, match=expected) as refusal:
        load_settings(home, {})
    assert f"mend it in {home.settings}" in refusal.value.next_step
