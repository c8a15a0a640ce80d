"""Which versions are offered to talk to, and in which order."""

import json
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from appliance.control.reading import talk as reading
from appliance.control.steps import Ground
from appliance.core.digests import Digest
from appliance.core.errors import NotFoundError
from appliance.core.tables import adapters as adapters_table
from appliance.core.tables import releases, rounds
from tests.control.talking import CARL
from tests.serving.conftest import ALIAS, Appliance


@pytest.fixture
def ground(served: Ground) -> Ground:
    return served


@pytest.fixture
def journal(ground: Ground) -> Iterator[Ground]:
    """The tables as they are, and as they were afterwards."""
    with ground.database.read() as connection:
        rows = {t: connection.execute(t.select()).all() for t in (releases, rounds, adapters_table)}
    yield ground
    with ground.database.write() as connection:
        for table, kept in rows.items():
            connection.execute(table.delete())
            if kept:
                connection.execute(sa.insert(table), [dict(row._mapping) for row in kept])


def test_the_versions_that_matter_come_first(
    journal: Ground, appliance: Appliance, adapters: list[Digest]
) -> None:
    first, second, waiting, failed, never, secret = adapters[:6]
    with journal.database.write() as connection:
        connection.execute(releases.delete())
        connection.execute(rounds.delete())
        for generation, (now, before) in enumerate(
            [(None, None), (first, None), (second, first)], start=1
        ):
            connection.execute(
                sa.insert(releases).values(
                    alias=ALIAS, generation=generation, adapter=now, previous=before,
                    reason="release", record="{}", at=1.0,
                )
            )  # fmt: skip
        for adapter, state in (
            (first, "released"), (second, "released"), (waiting, "awaiting_approval"),
            (failed, "refused"), (secret, "refused"),
        ):  # fmt: skip
            connection.execute(
                sa.insert(rounds).values(
                    state=state, reason="", authors="[]", adapter=adapter, champion=first,
                    order=json.dumps({"recipe": "r", "gates": "g", "suites": {}, "idle_s": 0}),
                    lease_until=0.0, fencing=0, created_at=1.0, changed_at=1.0,
                )
            )  # fmt: skip
        connection.execute(
            sa.update(adapters_table)
            .where(adapters_table.c.content == secret)
            .values(label="secret")
        )
    found = reading.versions(journal, CARL)
    assert [v.model for v in found[:4]] == [
        ALIAS, f"{ALIAS}@{waiting}", f"{ALIAS}@{first}", f"{ALIAS}@base",
    ]  # fmt: skip
    assert found[0].adapter == second
    models = [v.model for v in found]
    assert f"{ALIAS}@{failed}" in models
    assert f"{ALIAS}@{never}" not in models, "nobody released it and no round made it"
    assert f"{ALIAS}@{secret}" not in models
    assert len(set(models)) == len(models)
    assert reading.of_round(journal, CARL, 4) == [f"{ALIAS}@{first}", f"{ALIAS}@{failed}"]
    with pytest.raises(NotFoundError):
        reading.of_round(journal, CARL, 99)


def test_an_old_version_is_there_by_its_name(
    journal: Ground, monkeypatch: pytest.MonkeyPatch, released: Digest
) -> None:
    monkeypatch.setattr(reading, "KEPT_MAX", 0)
    model = f"{ALIAS}@{released}"
    assert model not in [v.model for v in reading.versions(journal, CARL)]
    assert [v.model for v in reading.chosen(journal, CARL, [model])] == [model]
