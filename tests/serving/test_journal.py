"""The journal is a compare-and-set, and its audit entry is there or the move is not."""

import threading

import pytest
import sqlalchemy as sa

from appliance.core import audit
from appliance.core.database import Database
from appliance.core.decisions import Release
from appliance.core.digests import digest_bytes
from appliance.core.errors import ConflictError
from appliance.core.tables import releases
from serving import journal


def entry(generation: int, name: str = "a", alias: str = "m") -> Release:
    return Release(
        alias=alias,
        generation=generation,
        adapter=digest_bytes(name.encode()),
        previous=None,
        reason="release",
        approvals=(),
        actor="test",
        at=1.0,
    )


def test_entries_follow_one_another(database: Database) -> None:
    assert journal.current(database, "m") is None
    journal.append(database, entry(1))
    journal.append(database, entry(2, "b"))
    assert journal.current(database, "m") == entry(2, "b")
    assert [e.generation for e in journal.history(database, "m")] == [2, 1]


@pytest.mark.parametrize("generation", [0, 1, 3])
def test_whoever_saw_an_old_generation_is_refused(database: Database, generation: int) -> None:
    journal.append(database, entry(1))
    with pytest.raises(ConflictError):
        journal.append(database, entry(generation))
    with database.read() as connection:
        assert len(audit.entries(connection)) == 1


def test_aliases_do_not_meet(database: Database) -> None:
    journal.append(database, entry(1))
    journal.append(database, entry(1, alias="other"))


def test_of_many_at_once_one_wins(database: Database) -> None:
    won: list[str] = []

    def move(name: str) -> None:
        try:
            journal.append(database, entry(1, name))
        except ConflictError:
            return
        won.append(name)

    threads = [threading.Thread(target=move, args=(str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert journal.current(database, "m") == entry(1, won[0])


def test_without_its_audit_entry_there_is_no_move(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(audit, "record", fail)
    with pytest.raises(OSError, match="no"):
        journal.append(database, entry(1))
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(releases)) == 0
