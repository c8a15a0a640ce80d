"""The database: durable by its pragmas, its schema made by Alembic and equal to the tables."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from appliance.core import audit
from appliance.core.database import Database
from appliance.core.errors import IntegrityError, UnavailableError
from appliance.core.tables import consumed, metadata


def _claim(database: Database, sequence: int) -> None:
    with database.write() as connection:
        connection.execute(sa.insert(consumed).values(collector="c", epoch=1, sequence=sequence))


def _claimed(database: Database) -> list[int]:
    with database.read() as connection:
        return list(connection.scalars(sa.select(consumed.c.sequence)))


@pytest.mark.parametrize(
    ("pragma", "value"), [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)]
)
def test_every_connection_is_durable(database: Database, pragma: str, value: object) -> None:
    with database.read() as first, database.read() as second:
        for connection in (first, second):
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == value


def test_the_migrations_make_exactly_the_tables(database: Database) -> None:
    with database.read() as connection:
        opts = {"compare_type": True, "include_name": _is_ours}
        context = MigrationContext.configure(connection, opts=opts)
        assert compare_metadata(context, metadata) == []


def _is_ours(name: str | None, kind: str, _: object) -> bool:
    """SQLAlchemy knows no virtual tables: the full-text index is made by its migration alone."""
    return kind != "table" or not str(name).startswith("trajectory_search")


def test_opening_again_changes_nothing(database: Database) -> None:
    _claim(database, 1)
    again = Database.open(database.path)
    assert _claimed(again) == [1]
    again.close()


def test_two_that_open_at_once_both_find_the_schema(tmp_path: Path) -> None:
    found: list[Database] = []
    threads = [
        threading.Thread(target=lambda: found.append(Database.open(tmp_path / "new.db")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for database in found:
        assert _claimed(database) == []
        database.close()


def test_an_error_undoes_the_transaction_and_its_audit_entry(database: Database) -> None:
    def act() -> None:
        with database.write() as connection:
            connection.execute(sa.insert(consumed).values(collector="c", epoch=1, sequence=1))
            audit.record(connection, actor="ops", act="act", subject="x", at=1.0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        act()
    assert _claimed(database) == []
    with database.read() as connection:
        assert audit.entries(connection) == []


def test_an_event_has_its_effect_once(database: Database) -> None:
    _claim(database, 1)
    with pytest.raises(sa.exc.IntegrityError):
        _claim(database, 1)


def test_a_reader_sees_one_snapshot_while_a_writer_commits(database: Database) -> None:
    with database.read() as connection:
        before = connection.scalar(sa.select(sa.func.count()).select_from(consumed))
        _claim(database, 1)
        assert connection.scalar(sa.select(sa.func.count()).select_from(consumed)) == before
    assert _claimed(database) == [1]


def test_writers_take_turns(database: Database) -> None:
    def work(thread: int) -> None:
        for number in range(10):
            _claim(database, thread * 10 + number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(_claimed(database)) == list(range(40))


def test_a_full_disk_is_unavailable_and_nothing_changed(database: Database) -> None:
    _claim(database, 1)
    with database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

    def fill() -> None:
        with database.write() as connection:
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
            rows = [{"collector": f"{n}" * 4000, "epoch": 1, "sequence": 1} for n in range(99)]
            connection.execute(sa.insert(consumed), rows)

    with pytest.raises(UnavailableError, match="full"):
        fill()
    assert _claimed(database) == [1]


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "espalier.db"
    path.write_bytes(b"this is a text file, and long enough to be looked at" * 100)
    with pytest.raises(IntegrityError, match="damaged or no database"):
        Database.open(path)
    assert path.read_bytes().startswith(b"this is a text file")


def test_a_database_of_a_newer_version_is_left_alone(database: Database) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(IntegrityError, match="schema 9999"):
        Database.open(database.path)


def test_a_folder_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot be opened"):
        Database.open(tmp_path / "nowhere" / "espalier.db")


_CLAIMER = """
import sys
from pathlib import Path
import sqlalchemy as sa
from appliance.core.database import Database
from appliance.core.tables import consumed
database = Database.open(Path(sys.argv[1]))
for number in range(10**6):
    with database.write() as connection:
        connection.execute(sa.insert(consumed).values(collector="c", epoch=1, sequence=number))
    print(number, flush=True)
"""


def test_what_was_committed_survives_kill_9(database: Database) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _CLAIMER, str(database.path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    assert child.stdout is not None
    lines = [child.stdout.readline() for _ in range(30)]
    child.kill()
    lines += child.stdout.readlines()
    child.communicate()
    claimed = _claimed(database)
    assert claimed == list(range(len(claimed)))
    assert len(claimed) >= len(lines)


def test_threads_of_one_process_take_turns_before_sqlite(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.core.database._BUSY_TIMEOUT_MS", 50)
    told: list[str] = []

    def write() -> None:
        try:
            _claim(database, 1)
        except UnavailableError as error:
            told.append(error.message)

    with database.write():
        thread = threading.Thread(target=write)
        thread.start()
        thread.join(20)
    assert ["others write to it for too long" in one for one in told] == [True]
    write()
    assert (len(told), _claimed(database)) == (1, [1])
