"""Assembly through the real log: joining, sealing, tiers, feedback, and deliveries of all kinds."""

import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as with_settings
from hypothesis import strategies as st

from appliance.core.database import Database
from appliance.core.event_log import Entry
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.records import Event, Feedback, Target, Trajectory, decode, encode
from appliance.core.tables import consumed, feedback, trajectories, turns
from appliance.ingest import Ingest
from collectors import assembly as assembly_module
from collectors.assembly import Assembly
from collectors.collector import Collector
from collectors.sealing import seal


def outcome(name: str, target: Target, said: str, **other: Any) -> Feedback:
    fields = {"source": "code", "actor": "key-1", "at": 1.0, "kind": "outcome", **other}
    return Feedback(feedback_id=name, target=target, outcome=said, **fields)


def current(home: Home) -> dict[str, Trajectory]:
    """The newest sealed version of everything."""
    database, store = Database.open(home.database), ObjectStore(home.objects)
    with database.read() as connection:
        rows = connection.execute(
            trajectories.select().where(trajectories.c.state == "sealed").order_by("version")
        ).all()
    database.close()
    return {row.trajectory_id: decode(store.get(row.object), Trajectory) for row in rows}


def test_a_session_is_one_trajectory_with_branches(
    home: Home, ingest: Ingest, collector: Collector, make: Any
) -> None:
    for name, prompt, answer in [
        ("a", [1], [2]),
        ("b", [1, 2, 3], [4]),
        ("rewritten", [9, 3], [5]),
    ]:
        ingest.turn(*make.gold(name, prompt, answer, session="s"))
    ingest.turn(*make.gold("other key", [1], [2], session="s", key_id="key-2"))
    assert collector.flush(0.0).sealed == 2
    mine = next(t for t in current(home).values() if t.who.key_id == "key-1")
    assert [(n.turn.turn_id, n.parent) for n in mine.nodes] == [
        ("a", None),
        ("b", 0),
        ("rewritten", None),
    ]
    assert mine.tier == "gold"


def test_without_a_session_the_ids_join(
    home: Home, ingest: Ingest, collector: Collector, make: Any
) -> None:
    ingest.turn(*make.gold("a", [1], [2], at=1.0))
    ingest.turn(*make.gold("else", [7], [8], at=2.0))
    ingest.turn(*make.gold("b", [1, 2, 3], [4], at=3.0))
    ingest.turn(*make.gold("foreign", [1, 2, 3], [4], at=3.0, key_id="key-2"))
    collector.flush(0.0)
    found = sorted([n.turn.turn_id for n in t.nodes] for t in current(home).values())
    assert found == [["a", "b"], ["else"], ["foreign"]]


def test_a_late_turn_makes_a_new_version(
    home: Home, ingest: Ingest, collector: Collector, make: Any
) -> None:
    ingest.turn(*make.gold("b", [1, 2, 3], [4], at=2.0))
    collector.flush(0.0)
    before = current(home)
    ingest.turn(*make.gold("a", [1], [2], at=1.0))
    collector.flush(0.0)
    after = current(home)
    assert [len(t.nodes) for t in before.values()] == [1]
    (joined,) = after.values()
    assert [(n.turn.turn_id, n.parent) for n in joined.nodes] == [("a", None), ("b", 0)]


def test_feedback_before_and_after_its_target(
    home: Home, ingest: Ingest, collector: Collector, make: Any
) -> None:
    ingest.feedback(outcome("f1", Target(session="s"), "failed"))
    ingest.turn(*make.gold("a", [1], [2], session="s"))
    collector.flush(0.0)
    (one,) = current(home).values()
    assert (one.version, one.outcome) == (1, "failed")
    tags = {"task": "t", "family": "f"}
    ingest.feedback(outcome("f2", Target(session="s"), "ok", at=2.0, tags=tags))
    collector.flush(0.0)
    (two,) = current(home).values()
    assert (two.version, two.outcome, two.task, two.family) == (2, "ok", "t", "f")
    ingest.feedback(outcome("f2", Target(session="s"), "ok", at=2.0))
    collector.flush(0.0)
    assert next(iter(current(home).values())).version == 2, "said twice changes nothing"


def test_an_id_of_a_feedback_belongs_to_the_key_that_chose_it(
    home: Home, ingest: Ingest, collector: Collector, make: Any
) -> None:
    """Two teams number their feedback from 1: each is told that it was recorded."""
    for key in ("key-1", "key-2"):
        ingest.turn(*make.gold(f"of {key}", [1], [2], session=f"s of {key}", key_id=key))
        ingest.feedback(outcome("1", Target(session=f"s of {key}"), "ok", actor=key))
    collector.flush(0.0)
    assert [one.outcome for one in current(home).values()] == ["ok", "ok"]


def test_feedback_for_what_never_comes_is_kept(
    ingest: Ingest, collector: Collector, make: Any
) -> None:
    ingest.feedback(outcome("f1", Target(turn_id="nobody"), "ok"))
    ingest.feedback(outcome("f2", Target(reference="PR-1"), "ok"))
    ingest.turn(*make.gold("a", [1], [2], session="s"))
    assert collector.flush(0.0).sealed == 1
    with collector._database.read() as connection:
        assert len(connection.execute(feedback.select()).all()) == 2


def test_a_reference_binds_in_any_order(
    home: Home, ingest: Ingest, collector: Collector, make: Any
) -> None:
    bind = {"reference": "PR-1"}
    ingest.feedback(outcome("merged", Target(reference="PR-1"), "ok", at=5.0))
    ingest.turn(*make.gold("a", [1], [2], session="s"))
    collector.flush(0.0)
    assert next(iter(current(home).values())).outcome == "unknown"
    ingest.feedback(outcome("b", Target(session="s"), "unknown", kind="comment", tags=bind))
    collector.flush(0.0)
    assert next(iter(current(home).values())).outcome == "ok"
    ingest.feedback(outcome("reverted", Target(reference="PR-1"), "failed", at=6.0))
    collector.flush(0.0)
    assert next(iter(current(home).values())).outcome == "failed"


def test_a_session_name_belongs_to_its_key(
    home: Home, ingest: Ingest, collector: Collector, make: Any
) -> None:
    for key_id in ("key-1", "key-2"):
        ingest.turn(*make.gold(f"of {key_id}", [1], [2], session="s", key_id=key_id))
    ingest.feedback(outcome("f", Target(session="s"), "ok", actor="key-2"))
    collector.flush(0.0)
    said = {t.who.key_id: t.outcome for t in current(home).values()}
    assert said == {"key-1": "unknown", "key-2": "ok"}


def test_an_announced_end_is_sealed_at_once(
    home: Home, ingest: Ingest, collector: Collector, make: Any
) -> None:
    for session in ("ended", "open"):
        ingest.turn(*make.gold(f"turn {session}", [1], [2], session=session))
    ingest.seal(Target(session="ended"))
    flushed = collector.flush(3600.0)
    assert (flushed.sealed, flushed.open) == (1, 1)
    assert next(iter(current(home).values())).nodes[0].turn.session == "ended"


def test_redaction_makes_silver_or_masks(
    home: Home, ingest: Ingest, collector: Collector, make: Any
) -> None:
    secret = "sk-ant-api03-" + "Zk9" * 31 + "AA"
    asked = [{"role": "user", "content": f"use {secret}"}]
    ingest.turn(make.silver("prompt", asked, "done", session="p"), {})
    ingest.turn(make.silver("answer", [{"role": "user", "content": "q"}], secret, session="a"), {})
    collector.flush(0.0)
    nodes = {t.nodes[0].turn.turn_id: t.nodes[0] for t in current(home).values()}
    assert (nodes["prompt"].tier, nodes["prompt"].trainable) == ("silver", True)
    assert (nodes["answer"].tier, nodes["answer"].trainable) == ("silver", False)
    assert secret not in str(nodes)


def test_large_payloads_come_back_from_the_object_store(
    home: Home, ingest: Ingest, collector: Collector, make: Any
) -> None:
    long = [{"role": "user", "content": "word " * 100_000}]
    ingest.turn(make.silver("a", long, "b", session="s"), {})
    collector.flush(0.0)
    (one,) = current(home).values()
    assert one.nodes[0].turn.messages == tuple(long)


def test_an_event_that_cannot_be_read_is_set_aside(
    home: Home, collector: Collector, ingest: Ingest, make: Any
) -> None:
    ingest.turn(*make.gold("a", [1], [2], session="s"))
    missing = Event(
        collector="x",
        epoch=1,
        sequence=1,
        key="k",
        kind="turn",
        record={"object": "sha256:" + "0" * 64},
    )
    collector._log.append([("k", b"\xffnothing"), ("k", encode(missing))])
    assert collector.flush(0.0).sealed == 1
    assert collector.totals.unreadable == 2


# --- any order, duplicates, kills -----------------------------------------------------------


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its schema, to copy: migrations take longer than the examples."""
    path = tmp_path_factory.mktemp("blank") / "blank.db"
    Database.open(path).close()
    return path


@pytest.fixture(scope="module")
def story(make: Any) -> list[Entry]:
    """Three pieces of work under two keys, with and without sessions, and what was said of them."""

    sent = [
        make.gold("a1", [1], [2], at=1.0),
        make.gold("a2", [1, 2, 3], [4], at=2.0),
        make.gold("a3", [1, 2, 3, 4, 5], [6], at=3.0),
        make.gold("branch", [1, 2, 7], [8], at=4.0),
        make.gold("lonely", [5], [5], at=5.0),
        make.gold("s1", [1], [2], at=6.0, session="s"),
        make.gold("s2", [1, 2, 3], [4], at=7.0, session="s"),
        make.gold("k1", [1], [2], at=8.0, key_id="key-2"),
        make.gold("k2", [1, 2, 9], [4], at=9.0, key_id="key-2"),
    ]
    said = [
        outcome("f1", Target(session="s"), "ok", tags={"task": "t1"}),
        outcome("f2", Target(turn_id="a3"), "failed"),
        outcome("f3", Target(turn_id="branch"), "ok", at=2.0),
        outcome("f4", Target(reference="R"), "failed"),
        outcome("f5", Target(turn_id="k1"), "unknown", kind="comment", tags={"reference": "R"}),
    ]
    records: list[tuple[str, Any, dict[str, bytes]]] = [
        ("turn", turn, {str(k): v for k, v in arrays.items()}) for turn, arrays in sent
    ]
    records += [("feedback", one, {}) for one in said]
    return [
        Entry(
            topic="t",
            partition=0,
            offset=i,
            key="k",
            value=encode(
                Event(
                    collector="c",
                    epoch=1,
                    sequence=i + 1,
                    key="k",
                    kind=kind,
                    record=msgspec.to_builtins(record),
                    blobs=blobs,
                )
            ),
        )
        for i, (kind, record, blobs) in enumerate(records)
    ]


class World:
    """A database and an object store that outlive each process that works on them."""

    def __init__(self, root: Path, blank: Path) -> None:
        root.mkdir(parents=True)
        shutil.copy(blank, root / "db")
        (root / "objects").mkdir()
        self.database = Database(root / "db")
        self.store = ObjectStore(root / "objects")

    def take(self, entries: Sequence[Entry]) -> None:
        Assembly(self.database, self.store).apply(entries, now=100.0)

    def seal(self) -> None:
        seal(self.database, self.store, idle_s=0.0, now=200.0)

    def told(self) -> dict[str, Any]:
        """What stands sealed in the end, without versions and times."""
        with self.database.read() as connection:
            rows = connection.execute(
                trajectories.select().where(trajectories.c.state == "sealed").order_by("version")
            ).all()
            assert not connection.execute(
                trajectories.select().where(trajectories.c.state.in_(("open", "ending")))
            ).all()
            assert all(r.record is None for r in connection.execute(turns.select()))
        newest = {r.trajectory_id: decode(self.store.get(r.object), Trajectory) for r in rows}
        return {
            name: (
                [(n.turn.turn_id, n.parent) for n in one.nodes],
                one.outcome,
                one.task,
                sorted(one.feedback),
            )
            for name, one in newest.items()
        }


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture(scope="module")
def expected(
    story: list[Entry], blank: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    world = World(tmp_path_factory.mktemp("expected") / "world", blank)
    world.take(story)
    world.seal()
    return world.told()


def test_the_story_reads_as_it_should(expected: dict[str, Any]) -> None:
    told = sorted(expected.values())
    assert [(nodes, said) for nodes, said, _, _ in told] == [
        ([("a1", None), ("a2", 0), ("a3", 1), ("branch", 0)], "ok"),
        ([("k1", None), ("k2", 0)], "failed"),
        ([("lonely", None)], "unknown"),
        ([("s1", None), ("s2", 0)], "ok"),
    ]


@with_settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_delivery_tells_the_same_story(
    data: st.DataObject,
    story: list[Entry],
    blank: Path,
    expected: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    world = World(tmp_path_factory.mktemp("any") / "world", blank)
    order = data.draw(st.permutations(story))
    again = data.draw(st.lists(st.sampled_from(story), max_size=6))
    pending = [*order, *again]
    while pending:
        size = data.draw(st.integers(1, len(pending)))
        batch, pending = pending[:size], pending[size:]
        if data.draw(st.booleans()):
            _die_while_taking(world, batch)
        world.take(batch)
        if data.draw(st.booleans()):
            world.take(batch)  # killed after the effect, before the commit of the position
        if data.draw(st.booleans()):
            world.seal()
    world.seal()
    assert world.told() == expected
    with world.database.read() as connection:
        assert len(connection.execute(consumed.select()).all()) == len(story)
    world.database.close()


def _die_while_taking(world: World, batch: Sequence[Entry]) -> None:
    def die(self: Any) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly_module._Desk, "put_back", die)
        with pytest.raises(Killed):
            world.take(batch)


def test_without_the_event_key_duplicates_would_count(
    story: list[Entry], blank: Path, tmp_path: Path
) -> None:
    """The turn's own key holds too: an import under a new epoch brings the same turn ids."""
    world = World(tmp_path / "world", blank)
    world.take(story)
    events = [decode(entry.value, Event) for entry in story]
    renamed = [
        msgspec.structs.replace(entry, value=encode(msgspec.structs.replace(event, epoch=2)))
        for entry, event in zip(story, events, strict=True)
    ]
    world.take(renamed)
    with world.database.read() as connection:
        assert len(connection.execute(turns.select()).all()) == 9
        assert len(connection.execute(consumed.select()).all()) == 2 * len(story)
        held = connection.execute(turns.select()).first()
    assert held is not None
    assert zlib.decompress(held.record)
