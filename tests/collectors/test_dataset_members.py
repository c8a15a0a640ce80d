"""The rows that say what a dataset looked at: written with it, and afterwards for older ones."""

from typing import Any

import pytest
import sqlalchemy as sa

from appliance.core.database import Database
from appliance.core.records import Target
from appliance.core.tables import dataset_members, datasets
from collectors.curation import members, run
from tests.collectors.desk import Desk


def rows(database: Database, dataset: str) -> dict[str, tuple[Any, ...]]:
    """Trajectory → version, examples, corrections, why something was left out."""
    m = dataset_members.c
    query = sa.select(m.trajectory_id, m.version, m.num_examples, m.num_corrections, m.excluded)
    with database.read() as connection:
        found = connection.execute(query.where(m.dataset == dataset)).all()
    return {row[0]: tuple(row[1:]) for row in found}


def named(desk: Desk, database: Database) -> dict[str, str]:
    """Turn → its trajectory."""
    with database.read() as connection:
        found = connection.exec_driver_sql("SELECT turn_id, trajectory_id FROM turns").all()
    return {row[0]: row[1] for row in found}


def work(desk: Desk) -> None:
    desk.gold("good", [5, 2], session="good")
    desk.say(Target(session="good"), "ok")
    desk.gold("unknown", [6, 2], session="unknown")
    desk.gold("corrected", [7, 2], session="corrected")
    desk.say(Target(session="corrected"), "failed")
    desk.say(Target(turn_id="corrected"), kind="correction", correction="better")
    desk.gold("long", [8] * 50 + [2], session="long")
    desk.say(Target(session="long"), "ok")


EXPECTED = {
    "good": (1, 1, 0, ""),
    "unknown": (1, 0, 0, "unknown_outcome"),
    "corrected": (1, 1, 1, "corrected"),
    "long": (1, 0, 0, "too_long"),
}


def test_every_trajectory_that_was_looked_at_has_a_row(desk: Desk, database: Database) -> None:
    work(desk)
    made, dataset = desk.curate("max_tokens = 40")
    names = named(desk, database)
    assert rows(database, made.dataset) == {names[n]: row for n, row in EXPECTED.items()}
    assert len(dataset.trajectories) == len(EXPECTED)
    # The same again is the same dataset, and its rows.
    assert desk.curate("max_tokens = 40")[0].dataset == made.dataset


def test_dataset_and_rows_are_one_transaction(
    desk: Desk, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(desk)
    put_members = run.put_members

    def put_and_die(*arguments: Any) -> None:
        put_members(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "put_members", put_and_die)
    with pytest.raises(KeyboardInterrupt):
        desk.curate()
    with database.read() as connection:
        assert connection.execute(sa.select(dataset_members)).all() == []
        assert connection.execute(sa.select(datasets)).all() == []


def test_an_older_dataset_gets_its_rows_afterwards(desk: Desk, database: Database) -> None:
    work(desk)
    made, _ = desk.curate("max_tokens = 40")
    before = rows(database, made.dataset)
    with database.write() as connection:
        connection.execute(sa.delete(dataset_members))
    assert list(members.mend_members(database, desk.store)) == [4]
    assert rows(database, made.dataset) == before
    assert list(members.mend_members(database, desk.store)) == []


def test_a_damaged_dataset_does_not_stop_the_others(desk: Desk, database: Database) -> None:
    work(desk)
    made, _ = desk.curate("max_tokens = 40")
    other, _ = desk.curate("max_tokens = 41")
    with database.write() as connection:
        connection.execute(sa.delete(dataset_members))
    digits = made.dataset.removeprefix("sha256:")
    (desk.home.objects / digits[:2] / digits[2:]).write_bytes(b"{}")
    assert list(members.mend_members(database, desk.store)) == [4]
    assert rows(database, made.dataset) == {}
    assert len(rows(database, other.dataset)) == 4
