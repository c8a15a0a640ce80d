"""The audit log: nothing in it can be changed, removed or put in between unseen."""

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.core import audit
from appliance.core.database import Database
from appliance.core.errors import IntegrityError, RecordError
from appliance.core.tables import audit as table


def _fill(database: Database, count: int) -> list[audit.Entry]:
    made = []
    for number in range(1, count + 1):
        with database.write() as connection:
            made.append(
                audit.record(
                    connection,
                    actor="ada",
                    act="round.approve",
                    subject=f"round {number}",
                    at=1000.5 + number,
                    adapter="sha256:…",
                    scores=[1, 0.25, None],
                )
            )
    return made


def test_entries_come_back_as_written(database: Database) -> None:
    made = _fill(database, 3)
    with database.read() as connection:
        assert audit.entries(connection) == made
        assert audit.entries(connection, after=1, limit=1) == made[1:2]
        assert audit.verify(connection) == 3


def test_an_empty_log_is_whole(database: Database) -> None:
    with database.read() as connection:
        assert audit.verify(connection) == 0


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("at", 1.0),
        ("actor", "eve"),
        ("act", "round.reject"),
        ("subject", "round 9"),
        ("detail", '{"adapter":"sha256:other"}'),
        ("chain", "sha256:" + "0" * 64),
        ("sequence", 99),
    ],
)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_changed_entry_is_found(
    database: Database, column: str, value: object, number: int
) -> None:
    _fill(database, 3)
    with database.write() as connection:
        connection.execute(
            sa.update(table).where(table.c.sequence == number).values({column: value})
        )
    with database.read() as connection, pytest.raises(IntegrityError, match="was changed"):
        audit.verify(connection)


@pytest.mark.parametrize("number", [1, 2])
def test_a_removed_entry_is_found(database: Database, number: int) -> None:
    _fill(database, 3)
    with database.write() as connection:
        connection.execute(sa.delete(table).where(table.c.sequence == number))
    with database.read() as connection, pytest.raises(IntegrityError):
        audit.verify(connection)


def test_an_entry_put_in_again_is_found(database: Database) -> None:
    first, second, _ = _fill(database, 3)
    with database.write() as connection:
        connection.execute(sa.update(table).where(table.c.sequence == 3).values(chain=second.chain))
    with database.read() as connection, pytest.raises(IntegrityError):
        audit.verify(connection)
    assert first.chain != second.chain


@settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    detail=st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=20),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**53) + 1, 2**53 - 1)
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(st.characters(codec="utf-8"), max_size=20),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=5,
        ),
        max_size=4,
    ).filter(lambda d: not set(d) & {"connection", "actor", "act", "subject", "at"})
)
def test_any_detail_verifies(database: Database, detail: dict[str, object]) -> None:
    with database.write() as connection:
        audit.record(connection, actor="a", act="b", subject="c", at=0.1, **detail)
    with database.read() as connection:
        assert audit.verify(connection) > 0


def test_a_detail_without_a_json_form_stops_the_act(database: Database) -> None:
    with pytest.raises(RecordError), database.write() as connection:
        audit.record(connection, actor="a", act="b", subject="c", at=0.0, score=float("nan"))
    with database.read() as connection:
        assert audit.entries(connection) == []
