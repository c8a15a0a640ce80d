"""What both forms of the event log promise. One suite; the medium is a parameter."""

import random
import threading
import time
from collections import defaultdict
from collections.abc import Sequence

import pytest

from appliance.core.errors import RecordError, UsageError
from appliance.core.event_log import MAX_KEY_BYTES, MAX_VALUE_BYTES, Entry
from tests.core.conftest import LogPlace, read_all


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def place(request: pytest.FixtureRequest) -> LogPlace:
    found: LogPlace = request.getfixturevalue(f"{request.param}_place")
    return found


def _by_key(entries: Sequence[Entry]) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = defaultdict(list)
    for entry in entries:
        found[entry.key].append(entry.value)
    return found


def test_what_was_appended_is_read_in_order_per_key(place: LogPlace) -> None:
    log = place.open()
    for number in range(30):
        log.append([(f"key-{number % 3}", f"{number}".encode())])
    log.append([("key-0", b"30"), ("ключ ☃", b"\x00\xff{}"), ("key-0", b"31")])
    found = _by_key(read_all(log))
    assert found["key-0"] == [b"%d" % n for n in (*range(0, 30, 3), 30, 31)]
    assert found["key-1"] == [b"%d" % n for n in range(1, 30, 3)]
    assert found["ключ ☃"] == [b"\x00\xff{}"]
    assert sum(map(len, found.values())) == 33


def test_offsets_rise_within_a_partition(place: LogPlace) -> None:
    log = place.open()
    log.append([(f"k{n % 5}", b"x") for n in range(50)])
    last: dict[int, int] = {}
    for entry in read_all(log):
        assert entry.offset > last.get(entry.partition, -1)
        last[entry.partition] = entry.offset
    assert all(last[p] + 1 == end for p, end in log.end().items() if end)


def test_what_was_read_but_not_committed_comes_again(place: LogPlace) -> None:
    first = place.open()
    first.append([("k", b"%d" % n) for n in range(10)])
    taken = first.read("collectors", max_records=4, timeout_s=10)
    first.commit("collectors")
    lost = first.read("collectors", max_records=3, timeout_s=10)
    assert [e.value for e in taken + lost] == [b"%d" % n for n in range(7)]
    first.close()
    again = read_all(place.open(), "collectors")
    assert [e.value for e in again] == [b"%d" % n for n in range(4, 10)]


def test_every_group_reads_everything_from_the_beginning(place: LogPlace) -> None:
    log = place.open()
    log.append([("k", b"before")])
    assert [e.value for e in read_all(log, "one")] == [b"before"]
    log.commit("one")
    log.append([("k", b"after")])
    assert [e.value for e in read_all(log, "one")] == [b"after"]
    assert [e.value for e in read_all(log, "two")] == [b"before", b"after"]


def test_a_committed_position_reaches_the_end(place: LogPlace) -> None:
    log = place.open()
    assert log.position("g") == dict.fromkeys(log.end(), 0)
    log.append([(f"k{n}", b"x") for n in range(9)])
    read_all(log, "g")
    assert sum(log.position("g").values()) == 0
    log.commit("g")
    assert log.position("g") == log.end() == place.open().position("g")
    assert sum(log.end().values()) == 9


def test_nothing_to_read_is_an_empty_list_in_time(place: LogPlace) -> None:
    log = place.open()
    log.append([("k", b"x")])
    read_all(log)
    began = time.monotonic()
    assert log.read("reader", max_records=10, timeout_s=0.2) == []
    assert 0.15 < time.monotonic() - began < 3


def test_a_waiting_reader_gets_what_another_object_appends(place: LogPlace) -> None:
    reader, writer = place.open(), place.open()
    reader.read("g", max_records=1, timeout_s=0.1)
    timer = threading.Timer(0.2, writer.append, [[("k", b"late")]])
    timer.start()
    found = reader.read("g", max_records=5, timeout_s=20)
    timer.join()
    assert [e.value for e in found] == [b"late"]


def test_what_is_appended_is_said_to_be_written(place: LogPlace) -> None:
    log = place.open()
    written: list[bool] = []
    log.append([("k", b"x"), ("k", b"y")], on_written=lambda: written.append(True))
    assert written == [True]


def test_appending_nothing_is_nothing(place: LogPlace) -> None:
    log = place.open()
    log.append([])
    assert sum(log.end().values()) == 0


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([("k", b"fits"), ("k", b"x" * (MAX_VALUE_BYTES + 1))], "at most 8388608 bytes"),
        ([("k", b"fits"), ("k" * (MAX_KEY_BYTES + 1), b"x")], "at most 1024 bytes"),
        ([("k", b"fits"), ("\ud800", b"x")], "must be text"),
    ],
    ids=["value", "key", "surrogate"],
)
def test_a_record_that_is_too_large_is_refused_whole(
    place: LogPlace, records: list[tuple[str, bytes]], expected: str
) -> None:
    log = place.open()
    with pytest.raises(RecordError, match=expected):
        log.append(records)
    assert sum(log.end().values()) == 0


def test_the_largest_record_passes(place: LogPlace) -> None:
    log = place.open()
    log.append([("k" * MAX_KEY_BYTES, b"x" * MAX_VALUE_BYTES)])
    (entry,) = read_all(log)
    assert (len(entry.key), entry.value) == (MAX_KEY_BYTES, b"x" * MAX_VALUE_BYTES)


@pytest.mark.parametrize("group", ["", "../x", "A", "a b", ".hidden"])
def test_a_group_name_is_checked(place: LogPlace, group: str) -> None:
    with pytest.raises(UsageError, match="consumer group"):
        place.open().read(group, max_records=1, timeout_s=0)


def test_threads_share_one_log(place: LogPlace) -> None:
    log = place.open()

    def work(thread: int) -> None:
        for number in range(20):
            log.append([(f"t{thread}", b"%d" % number)])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = _by_key(read_all(log))
    assert found == {f"t{n}": [b"%d" % i for i in range(20)] for n in range(8)}


@pytest.mark.parametrize("seed", range(3))
def test_all_that_was_acknowledged_survives_kill_9(place: LogPlace, seed: int) -> None:
    child = place.start_child()
    assert child.stdout is not None
    first = child.stdout.readline()
    time.sleep(random.Random(seed).uniform(0.0, 0.4))
    child.kill()
    acknowledged = [first.strip(), *child.stdout.read().split("\n")]
    child.communicate()
    acknowledged.pop()  # what no newline ends was not said
    found = {
        key: [v.decode() for v in values] for key, values in _by_key(read_all(place.open())).items()
    }
    for key, ids in found.items():
        numbers = [int(one.partition("-")[2]) for one in ids]
        assert numbers == list(range(len(numbers))), f"{key} is in order, without a gap or a double"
    assert set(acknowledged) <= {one for ids in found.values() for one in ids}
    place.open().append([("k", b"the log goes on")])
