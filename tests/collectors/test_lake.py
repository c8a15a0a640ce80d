"""The lake: Parquet that DuckDB reads, mended after a kill, and trajectories that tail shows."""

import json
from typing import Any

import duckdb
import pytest

from appliance.core.home import Home
from appliance.core.records import Feedback, Target
from appliance.core.settings import Settings
from appliance.ingest import Ingest
from collectors.collector import Collector
from collectors.command import main
from collectors.lake import Lake


def arrange(ingest: Ingest, collector: Collector, make: Any) -> None:
    ingest.turn(*make.gold("a", [1], [2], session="s", at=1.0))
    ingest.turn(*make.gold("b", [1, 2, 3], [4, 5], session="s", at=2.0))
    ingest.turn(make.silver("c", [{"role": "user", "content": "q"}], "x", session="t"), {})
    ingest.feedback(
        Feedback(
            feedback_id="f",
            target=Target(session="s"),
            kind="outcome",
            source="human",
            actor="p",
            outcome="ok",
            tags={"task": "task é"},
            at=3.0,
        )
    )
    collector.flush(0.0)


def query(home: Home, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        text = sql.format(
            trajectories=f"read_parquet('{home.lake}/trajectories/*/*.parquet')",
            turns=f"read_parquet('{home.lake}/turns/*/*.parquet')",
        )
        return connection.execute(text).fetchall()


def test_duckdb_reads_the_lake(home: Home, ingest: Ingest, collector: Collector, make: Any) -> None:
    arrange(ingest, collector, make)
    rows = query(
        home,
        "select num_turns, tier, outcome, task, num_feedback, year(sealed_at) > 2000, day "
        "is not null from {trajectories} order by num_turns",
    )
    assert rows == [
        (1, "silver", "unknown", None, 0, True, True),
        (2, "gold", "ok", "task é", 1, True, True),
    ]
    rows = query(
        home,
        "select turn_id, node, parent, num_prompt_tokens, num_answer_tokens, epoch(ended_at), "
        "redacted from {turns} where session = 's' order by node",
    )
    assert rows == [("a", 0, None, 1, 1, 1.0, []), ("b", 1, 0, 3, 2, 2.0, [])]


def test_parts_that_a_kill_prevented_are_written_at_the_next_start(
    home: Home,
    ingest: Ingest,
    collector: Collector,
    make: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Lake, "add", lambda *_: None)
        arrange(ingest, collector, make)
    assert not list(home.lake.glob("trajectories/*/*"))
    Collector(home, Settings()).close()
    Collector(home, Settings()).close()
    assert query(home, "select count(*) from {trajectories}") == [(2,)]
    assert query(home, "select count(*) from {turns}") == [(3,)]


def test_tail_shows_who_tier_adapter_and_outcome(
    home: Home,
    ingest: Ingest,
    collector: Collector,
    make: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arrange(ingest, collector, make)
    assert main(["tail", "--home", str(home.root), "--once", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {(line["tier"], line["outcome"], line["adapter"]) for line in lines} == {
        ("gold", "ok", None),
        ("silver", "unknown", None),
    }
    assert main(["tail", "--home", str(home.root), "--once", "-n", "1"]) == 0
    (text,) = capsys.readouterr().out.splitlines()
    assert "team/project/agent" in text


def test_tail_of_nothing_says_what_to_do(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tail", "--home", str(home.root), "--once"]) == 2
    assert "espalier up" in capsys.readouterr().err
