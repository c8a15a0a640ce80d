"""The words that trajectories are found by: written with the seal, replaced by later versions."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from appliance.core.database import Database
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.records import Feedback, Target
from appliance.core.settings import Settings
from appliance.core.tables import trajectories, trajectory_texts
from appliance.ingest import Ingest
from collectors import sealing, search_index, service
from collectors.collector import Collector


def bodies(database: Database) -> list[str]:
    """The indexed texts, in the order in which they came."""
    with database.read() as connection:
        found = connection.exec_driver_sql("SELECT body FROM trajectory_search ORDER BY rowid")
        return list(found.scalars())


def found_by(database: Database, text: str) -> int:
    with database.read() as connection:
        query = sa.text("SELECT count(*) FROM trajectory_search WHERE trajectory_search MATCH :q")
        return int(connection.execute(query, {"q": f'"{text}"'}).scalar_one())


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_user_and_assistant_are_found_and_nobody_else(
    database: Database, ingest: Ingest, collector: Collector, make: Any
) -> None:
    asked = [
        {"role": "system", "content": "the manual"},
        user([{"type": "text", "text": "退货政策 是什么"}, {"type": "image_url", "image_url": {}}]),
    ]
    ingest.turn(make.silver("a", asked, "سياسة الإرجاع", session="s", at=1.0), {})
    told = [*asked, {"role": "assistant", "content": "سياسة الإرجاع"}]
    told += [{"role": "tool", "tool_call_id": "c", "content": "a result"}, user("а по-русски?")]
    ingest.turn(make.silver("b", told, "Пожалуйста", session="s", at=2.0), {})
    ingest.feedback(
        Feedback(
            feedback_id="f", target=Target(session="s"), kind="outcome", source="code",
            actor="key-1", outcome="ok", tags={"task": "desk/7", "family": "refunds"}, at=3.0,
        )
    )  # fmt: skip
    collector.flush(0.0)
    assert bodies(database) == [
        "退货政策 是什么 سياسة الإرجاع а по-русски? Пожалуйста desk/7 refunds agent"
    ]
    for part in ("退货政", "الإر", "пож", "desk/7", "refunds", "agent"):
        assert found_by(database, part) == 1, part
    for part in ("manual", "result"):
        assert found_by(database, part) == 0, part


def test_words_are_folded_and_cut(
    database: Database, ingest: Ingest, collector: Collector, make: Any
) -> None:
    noisy = "re\u200ffund\x00 the\r\n\tcoat\x1b " + "e\u0301" + " x" * 5000 + " end"
    ingest.turn(make.silver("a", [user(noisy)], "the answer", session="s"), {})
    collector.flush(0.0)
    (body,) = bodies(database)
    assert body.startswith("refund the coat \u00e9 x x")
    assert len(body) == search_index.MAX_CHARACTERS + len(" agent")
    assert found_by(database, "the answer") == 0


def test_a_later_version_takes_the_place_of_the_words(
    database: Database, ingest: Ingest, collector: Collector, make: Any
) -> None:
    ingest.turn(make.silver("a", [user("first words")], "an answer", session="s", at=1.0), {})
    ingest.turn(make.silver("other", [user("other")], "words", session="o", at=2.0), {})
    collector.flush(0.0)
    ingest.turn(make.silver("b", [user("anew entirely")], "later", session="s", at=3.0), {})
    collector.flush(0.0)
    assert bodies(database) == [
        "first words an answer anew entirely later agent",
        "other words agent",
    ]
    assert found_by(database, "entirely") == 1
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(trajectory_texts)) == 2


def test_a_seal_that_fails_leaves_no_words(
    home: Home,
    database: Database,
    ingest: Ingest,
    collector: Collector,
    make: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ingest.turn(make.silver("a", [user("first words")], "an answer", session="s"), {})
    collector.flush(3600.0)
    put_words = sealing.put_words

    def put_and_die(*arguments: Any) -> None:
        put_words(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(sealing, "put_words", put_and_die)
    with pytest.raises(KeyboardInterrupt):
        collector.seal(0.0)
    assert bodies(database) == []
    with database.read() as connection:
        assert connection.scalar(sa.select(trajectories.c.state)) == "open"


def test_an_old_home_is_indexed_in_batches_and_a_damaged_object_does_not_stop_it(
    home: Home,
    database: Database,
    store: ObjectStore,
    ingest: Ingest,
    collector: Collector,
    make: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(7):
        turn = make.silver(f"{number}", [user(f"words {number}")], "yes", session=f"s{number}")
        ingest.turn(turn, {})
    collector.flush(0.0)
    ingest.turn(make.silver("late", [user("later on")], "yes", session="s3", at=9e9), {})
    collector.flush(0.0)
    forget(database)
    damaged = one_object(home, database)
    damaged.write_bytes(b"{}")
    monkeypatch.setattr(search_index, "_NOT_YET", search_index._NOT_YET.limit(3))
    assert list(collector.mend()) == [3, 3, 1]
    assert len(bodies(database)) == 6
    assert found_by(database, "later on") == 1
    # What is there stays as it is; the damaged one is tried again.
    assert list(collector.mend()) == [1]


def test_words_sealed_meanwhile_are_not_overwritten_by_older_ones(
    database: Database, store: ObjectStore, ingest: Ingest, collector: Collector, make: Any
) -> None:
    ingest.turn(make.silver("a", [user("first words")], "yes", session="s", at=1.0), {})
    collector.flush(0.0)
    forget(database)
    steps = search_index.mend(_Sealing(database, ingest, collector, make), store)
    assert list(steps) == [1]
    assert bodies(database) == ["first words yes later on agent"]


def test_the_service_does_it_beside_its_work(
    home: Home,
    settings: Settings,
    database: Database,
    ingest: Ingest,
    make: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ingest.turn(make.silver("a", [user("first words")], "yes", session="s"), {})
    before = Collector(home, settings)
    before.flush(0.0)
    before.close()
    forget(database)
    monkeypatch.setattr(service, "_SEAL_EVERY_S", 0.01)
    stop = threading.Event()
    serving = threading.Thread(target=service.serve, args=(home, settings), kwargs={"stop": stop})
    serving.start()
    try:
        deadline = time.monotonic() + 20
        while not bodies(database) and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        stop.set()
        serving.join()
    assert bodies(database) == ["first words yes agent"]


class _Sealing(Database):
    """A database in which a later version is sealed between mending's look and its write."""

    def __init__(self, database: Database, ingest: Ingest, collector: Collector, make: Any) -> None:
        super().__init__(database.path)
        self._parts = (ingest, collector, make)

    def write(self) -> Any:
        if self._parts:
            (ingest, collector, make), self._parts = self._parts, ()
            ingest.turn(make.silver("b", [user("later on")], "yes", session="s", at=2.0), {})
            collector.flush(0.0)
        return super().write()


def forget(database: Database) -> None:
    """As the home of an earlier version of Espalier."""
    with database.write() as connection:
        connection.execute(sa.delete(trajectory_texts))
        connection.exec_driver_sql("DELETE FROM trajectory_search")


def one_object(home: Home, database: Database) -> Path:
    """Where the object of the trajectory with one version and the lowest id lies."""
    query = sa.select(trajectories.c.object).group_by(trajectories.c.trajectory_id)
    with database.read() as connection:
        alone = query.having(sa.func.count() == 1).order_by(trajectories.c.trajectory_id)
        digits = str(connection.scalar(alone.limit(1))).removeprefix("sha256:")
    return home.objects / digits[:2] / digits[2:]
