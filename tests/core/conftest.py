"""Both forms of the event log, each as a place that a test or a child process can open."""

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from appliance.core.errors import UnavailableError
from appliance.core.event_log import Entry, EventLog
from appliance.core.home import Home
from tests.services.broker import Broker
from tests.services.fixtures import kafka_broker  # noqa: F401  (registers the fixture)

_CHILD = Path(__file__).parent / "appending_child.py"


class LogPlace:
    """One log. `open` gives a new object on it each time, as a new process would have."""

    def __init__(self, name: str, arguments: Sequence[str], make: Callable[[], EventLog]) -> None:
        self.name = name
        self._arguments = [name, *arguments]
        self._make = make
        self._opened: list[EventLog] = []

    def open(self) -> EventLog:
        log = self._make()
        self._opened.append(log)
        return log

    def start_child(self, *before: str) -> subprocess.Popen[str]:
        """A process that appends, and prints each id once it is acknowledged."""
        command = [*before, sys.executable, str(_CHILD), *self._arguments]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        for log in self._opened:
            with suppress(OSError, UnavailableError):
                log.close()


def read_all(log: EventLog, group: str = "reader") -> list[Entry]:
    """Everything from the group's position to the end of the log."""
    found: list[Entry] = []
    missing = sum(log.end().values()) - sum(log.position(group).values())
    while batch := log.read(group, max_records=100, timeout_s=10 if len(found) < missing else 0.05):
        found += batch
    return found


@pytest.fixture
def embedded_place(tmp_path: Path) -> Iterator[LogPlace]:
    from appliance.core.embedded_log import EmbeddedLog

    folder = tmp_path / "log"
    place = LogPlace("embedded", [str(folder)], lambda: EmbeddedLog(folder, segment_bytes=4096))
    yield place
    place.close()


@pytest.fixture
def kafka_place(kafka_broker: Broker) -> Iterator[LogPlace]:  # noqa: F811
    from appliance.core.kafka_log import KafkaLog

    bootstrap, topic = kafka_broker.status()["bootstrap"], f"test-{uuid.uuid4().hex}"
    place = LogPlace(
        "kafka", [bootstrap, topic], lambda: KafkaLog(bootstrap, topic=topic, num_partitions=3)
    )
    yield place
    place.close()


@pytest.fixture
def home_objects(home: Home) -> Path:
    return home.objects


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "log"
