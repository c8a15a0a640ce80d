"""``espalier key usage``: what was used, and what is left."""

import calendar
import json
from pathlib import Path

import pytest

from appliance.core.database import Database
from appliance.core.home import Home
from serving import key_command
from serving.command import main
from serving.key_lines import usage_lines, usage_value
from serving.keys import Key, Scope, add_key
from serving.limits import set_limits
from serving.usage import Spent, save

TODAY = calendar.timegm((2026, 11, 22, 0, 0, 0)) // 86_400
LAST_MONTH = TODAY - 22


@pytest.fixture
def key(database: Database) -> Key:
    key = add_key(
        database, team="sales", project="p", agent="coder", label="internal", exact=False,
        actor="test",
    )[1]  # fmt: skip
    spent = {
        TODAY: Spent(requests=1, prompt_tokens=300, completion_tokens=200, units=0.1),
        TODAY - 1: Spent(requests=2, prompt_tokens=1_000_000, completion_tokens=500, units=0.2),
        LAST_MONTH: Spent(requests=4, prompt_tokens=7),
    }
    save(database, {(key.key_id, day): one for day, one in spent.items()})
    return key


def test_this_month_stands_beside_today_and_what_is_left_beside_each_budget(
    database: Database, key: Key
) -> None:
    amounts = {"tokens_per_day": 800.0, "units_per_month": 0.6, "requests_per_minute": 9.0}
    set_limits(database, Scope("team", "sales"), amounts, actor="test")
    set_limits(database, Scope("agent", "coder"), {"tokens_per_month": 5.0}, actor="test")
    value = usage_value(database, TODAY)
    left = {one["kind"]: one["left"] for one in value["limits"]}
    assert left["team"] == {"tokens_per_day": 300.0, "units_per_month": pytest.approx(0.3)}
    assert left["agent"] == {"tokens_per_month": 0.0}
    assert {one["kind"]: one["tokens"] for one in value["today"]} == {
        "key": 500, "agent": 500, "team": 500,
    }  # fmt: skip
    assert {one["kind"]: one["requests"] for one in value["month"]} == {
        "key": 3, "agent": 3, "team": 3,
    }  # fmt: skip
    said = usage_lines(value)
    assert (
        "team 'sales': requests per minute 9, tokens per day 800 (300 left), "
        "units per month 0.6 (0.3 left)" in said
    )
    assert (
        "team 'sales': today 1 requests, 500 tokens, 0.1 units; "
        "this month 3 requests, 1001000 tokens, 0.3 units" in said
    )


def test_what_was_not_used_today_is_shown_with_its_month(database: Database, key: Key) -> None:
    value = usage_value(database, TODAY + 1)
    assert value["today"] == []
    assert f"key {key.key_id!r}: today 0 requests" in usage_lines(value)
    assert "1001000 tokens" in usage_lines(value)


def test_by_command(
    home: Home, key: Key, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(key_command.time, "time", lambda: TODAY * 86_400.0 + 5)
    assert main(["key", "usage", "--home", str(home.root)]) == 0
    assert "agent 'coder': today 1 requests" in capsys.readouterr().out
    assert main(["key", "usage", "--home", str(home.root), "--json"]) == 0
    assert {one["requests"] for one in json.loads(capsys.readouterr().out)["month"]} == {3}


def test_a_home_where_nothing_was_used(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["key", "usage", "--home", str(home.root)]) == 0
    assert capsys.readouterr().out == "nothing is limited, paused or used this month\n"
    assert main(["key", "usage", "--home", str(tmp_path / "hoem")]) == 2
    assert "no Espalier home at" in capsys.readouterr().err
    assert not (tmp_path / "hoem").exists()
