"""The door into the event log: nothing secret passes, nothing is lost, one fsync serves many."""

import base64
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import msgspec
import pytest

from appliance.core.digests import digest_bytes
from appliance.core.errors import RecordError, RefusedError, UnavailableError
from appliance.core.event_log import EventLog
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.open_log import open_log
from appliance.core.records import ArrayRef, Event, Feedback, Target, Turn, Who, convert, decode
from appliance.core.settings import Gateway, Settings
from appliance.ingest import Ingest

SECRET = "AKIAQ3EGRZ7XK2PLM4TN"
IDS = b"\x01\x00\x00\x00\x02\x00\x00\x00"


class FailingLog:
    """A log on a full disk, until it is mended. Same `append` as EventLog."""

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes]] = []
        self.batches: list[int] = []
        self.mended = threading.Event()
        self.hold = threading.Event()
        self.hold.set()

    def append(
        self, records: Sequence[tuple[str, bytes]], *, on_written: Callable[[], None]
    ) -> None:
        del on_written
        self.hold.wait(5)
        if not self.mended.is_set():
            raise UnavailableError("the disk is full")
        self.records += records
        self.batches.append(len(records))

    def close(self) -> None:
        pass


@pytest.fixture
def log(home: Home) -> Iterator[EventLog]:
    log = open_log(home, Settings())
    yield log
    log.close()


@pytest.fixture
def ingest(home: Home) -> Iterator[Ingest]:
    ingest = Ingest(home, Settings(), collector="test")
    yield ingest
    ingest.close()


@pytest.fixture
def failing(home: Home) -> Iterator[tuple[Ingest, FailingLog]]:
    log = FailingLog()
    ingest = Ingest(home, Settings(), collector="test", log=log, queue_max=4)  # type: ignore[arg-type]
    yield ingest, log
    ingest.close()


def make_turn(turn_id: str = "t1", text: str = "hello", **changes: object) -> Turn:
    ref = ArrayRef(digest_of_bytes=digest_bytes(IDS), dtype="int32", count=2)
    turn = Turn(
        turn_id=turn_id,
        who=Who(key_id="k1", team="t", project="p", agent="a"),
        label="internal",
        session=None,
        base=None,
        adapter=None,
        template=None,
        messages=({"role": "user", "content": text},),
        answer={"role": "assistant", "content": "fine"},
        finish_reason="stop",
        sampling=None,
        prompt_ids=ref,
        answer_ids=None,
        logprobs=None,
        started_at=1.0,
        ended_at=2.0,
    )
    return msgspec.structs.replace(turn, **changes)


def read_events(log: EventLog) -> list[Event]:
    return [decode(e.value, Event) for e in log.read("reader", max_records=1000, timeout_s=1)]


ARRAYS = {digest_bytes(IDS): IDS}


def test_a_turn_is_in_the_log_when_the_call_returns(ingest: Ingest, log: EventLog) -> None:
    ingest.turn(make_turn(), ARRAYS)
    (event,) = read_events(log)
    assert (event.collector, event.sequence, event.key, event.kind) == ("test", 1, "k1", "turn")
    assert convert(event.record, Turn) == make_turn()
    assert event.blobs == {digest_bytes(IDS): IDS}


def test_the_session_is_the_key_where_there_is_one(ingest: Ingest, log: EventLog) -> None:
    ingest.turn(make_turn(session="s9"), ARRAYS)
    assert read_events(log)[0].key == "s9"


@pytest.mark.parametrize(
    "changes",
    [
        {"text": f"my key is {SECRET}"},
        {"answer": {"role": "assistant", "content": f"use {SECRET}"}},
        {"tools": ({"type": "function", "function": {"description": SECRET}},)},
        {"answer": {"role": "assistant", "tool_calls": [{"function": {"arguments": SECRET}}]}},
    ],
    ids=["prompt", "answer", "tools", "tool_call"],
)
def test_a_secret_reaches_neither_log_nor_arrays(
    ingest: Ingest, log: EventLog, home: Home, changes: dict[str, str]
) -> None:
    ingest.turn(make_turn(**changes), ARRAYS)
    entries = log.read("reader", max_records=10, timeout_s=1)
    assert len(entries) == 1
    assert SECRET.encode() not in entries[0].value
    event = decode(entries[0].value, Event)
    turn = convert(event.record, Turn)
    assert turn.redacted == ("aws-access-key",)
    assert (turn.prompt_ids, turn.answer_ids, turn.logprobs) == (None, None, None)
    assert event.blobs == {}
    assert base64.b64encode(IDS) not in entries[0].value
    for path in home.root.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_feedback_is_redacted_too(ingest: Ingest, log: EventLog) -> None:
    feedback = Feedback(
        feedback_id="f1",
        target=Target(session="s1"),
        kind="correction",
        source="human",
        actor="k1",
        correction=f"export KEY={SECRET}",
        at=1.0,
    )
    ingest.feedback(feedback)
    (event,) = read_events(log)
    assert event.key == "s1"
    assert "[redacted:aws-access-key:" in convert(event.record, Feedback).correction


def test_feedback_names_exactly_one_target(ingest: Ingest) -> None:
    for target in (Target(), Target(session="s", turn_id="t"), Target(session="")):
        feedback = Feedback(
            feedback_id="f", target=target, kind="comment", source="human", actor="k", at=1.0
        )
        with pytest.raises(RecordError, match="exactly one"):
            ingest.feedback(feedback)


def test_a_large_payload_goes_to_the_object_store(
    ingest: Ingest, log: EventLog, store: ObjectStore
) -> None:
    turn = make_turn(text="long " * 60_000)
    ingest.turn(turn, ARRAYS)
    (event,) = read_events(log)
    assert list(event.record) == ["object"]
    assert decode(store.get(event.record["object"]), Turn) == turn


def test_large_arrays_go_to_the_object_store(
    ingest: Ingest, log: EventLog, store: ObjectStore
) -> None:
    data = bytes(400_000)
    ref = ArrayRef(digest_of_bytes=digest_bytes(data), dtype="int32", count=100_000)
    ingest.turn(make_turn(prompt_ids=ref), {digest_bytes(data): data})
    (event,) = read_events(log)
    assert event.blobs == {}
    assert store.get(digest_bytes(data)) == data


def test_an_array_must_be_what_its_digest_says(ingest: Ingest) -> None:
    for arrays in ({}, {digest_bytes(IDS): b"other"}):
        with pytest.raises(RecordError, match="array"):
            ingest.turn(make_turn(), arrays)


def test_a_label_above_the_endpoint_is_refused(home: Home) -> None:
    settings = Settings(gateway=Gateway(label="internal"))
    ingest = Ingest(home, settings, collector="test")
    with pytest.raises(RefusedError, match="secret"):
        ingest.turn(make_turn(label="secret"), ARRAYS)
    ingest.close()


def test_every_start_has_a_new_epoch_even_if_the_counter_is_lost(home: Home, log: EventLog) -> None:
    for _ in range(2):
        ingest = Ingest(home, Settings(), collector="test")
        ingest.turn(make_turn(), ARRAYS)
        ingest.close()
    first, second = read_events(log)
    assert second.epoch > first.epoch > 1_000_000_000


def test_sequences_count_up_without_a_gap_from_many_threads(ingest: Ingest, log: EventLog) -> None:
    def append(name: int) -> None:
        for n in range(20):
            ingest.turn(make_turn(f"{name}/{n}"), ARRAYS)

    threads = [threading.Thread(target=append, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(event.sequence for event in read_events(log)) == list(range(1, 81))


def test_whoever_waits_at_the_same_moment_shares_one_append(
    failing: tuple[Ingest, FailingLog],
) -> None:
    ingest, log = failing
    log.mended.set()
    log.hold.clear()
    futures = [ingest.send_turn(make_turn(str(n)), ARRAYS) for n in range(4)]
    log.hold.set()
    for future in futures:
        future.result(5)
    assert len(log.batches) <= 2


def test_a_turn_of_the_tap_waits_for_the_write_alone(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushing, go_on, real = threading.Event(), threading.Event(), os.fsync

    def slow(descriptor: int) -> None:
        flushing.set()
        go_on.wait(30)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    ingest.send_turn(make_turn(), ARRAYS).result(30)
    assert flushing.wait(30)
    assert ingest.counts.appended == 0
    go_on.set()
    ingest.flush()
    assert ingest.counts.appended == 1


def test_a_full_disk_is_told_to_whoever_waits(failing: tuple[Ingest, FailingLog]) -> None:
    ingest, log = failing
    with pytest.raises(UnavailableError, match="full"):
        ingest.turn(make_turn(), ARRAYS)
    assert ingest.counts.refused == 1
    assert log.records == []
    ingest.require_room()


def test_a_turn_that_cannot_wait_is_kept_until_the_log_takes_it(
    failing: tuple[Ingest, FailingLog],
) -> None:
    ingest, log = failing
    future = ingest.send_turn(make_turn("kept"), ARRAYS)
    with pytest.raises(UnavailableError):
        ingest.flush(0.2)
    with pytest.raises(UnavailableError, match="full"):
        ingest.require_room()
    log.mended.set()
    future.result(5)
    ingest.require_room()
    assert [decode(value, Event).record["turn_id"] for _, value in log.records] == ["kept"]


def test_overflow_is_counted_and_loud(
    failing: tuple[Ingest, FailingLog], caplog: pytest.LogCaptureFixture
) -> None:
    ingest, log = failing
    log.hold.clear()
    sent = 0
    while not ingest.counts.overflowed:
        assert sent < 20
        with suppress(UnavailableError):
            ingest.send_turn(make_turn(f"turn-{sent}"), ARRAYS)
            sent += 1
    assert f"turn turn-{sent} is lost" in caplog.text
    log.mended.set()
    log.hold.set()
    ingest.flush(5)
    assert len(log.records) == sent


def test_closing_appends_what_waits(home: Home) -> None:
    log = FailingLog()
    log.mended.set()
    log.hold.clear()
    ingest = Ingest(home, Settings(), collector="test", log=log)  # type: ignore[arg-type]
    for n in range(3):
        ingest.turn(make_turn(str(n)), ARRAYS, wait=False)
    log.hold.set()
    ingest.close()
    assert len(log.records) == 3


def test_the_tag_key_is_private_and_stays(home: Home) -> None:
    key = home.secrets / "redaction.key"
    for _ in range(2):
        Ingest(home, Settings(), collector="test", log=FailingLog()).close()  # type: ignore[arg-type]
    assert key.stat().st_mode & 0o077 == 0
    before = key.read_bytes()
    Ingest(home, Settings(), collector="other", log=FailingLog()).close()  # type: ignore[arg-type]
    assert key.read_bytes() == before
    assert len(before) == 32


def test_a_caller_that_gives_up_takes_nobody_with_it(failing: tuple[Ingest, FailingLog]) -> None:
    """A request that is cancelled at shutdown must not end the thread that appends."""
    ingest, log = failing
    log.mended.set()
    log.hold.clear()
    comment = Feedback(
        feedback_id="f",
        target=Target(session="s"),
        kind="comment",
        source="human",
        actor="k",
        at=1.0,
    )
    ingest.send_feedback(comment).cancel()
    log.hold.set()
    ingest.turn(make_turn(), ARRAYS, wait=False)
    ingest.flush(5)
    assert len(log.records) == 2
