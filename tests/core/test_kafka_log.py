"""What only a broker can suffer: not being there, and being killed."""

import gc
import time
import uuid
from collections.abc import Iterator

import pytest

from appliance.core.errors import SettingsError, UnavailableError
from appliance.core.home import Home
from appliance.core.settings import Log, Settings
from tests.core.conftest import read_all
from tests.services.broker import Broker

pytestmark = [
    pytest.mark.kafka,
    # kafka-python leaves the socket of each refused connection to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _sockets_collected() -> Iterator[None]:
    yield
    gc.collect()


def test_a_broker_killed_by_kill_9_is_refused_then_found_again_with_all_acknowledged(
    kafka_broker: Broker,
) -> None:
    from appliance.core.kafka_log import KafkaLog

    bootstrap, topic = kafka_broker.status()["bootstrap"], f"test-{uuid.uuid4().hex}"
    log = KafkaLog(bootstrap, topic=topic, num_partitions=1, timeout_s=2)
    for number in range(50):
        log.append([("key", b"%d" % number)])
    assert len(read_all(log)) == 50
    kafka_broker.kill()
    try:
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="did not do it"):
            log.append([("key", b"never acknowledged")])
        with pytest.raises(UnavailableError):  # noqa: PT012  (the first reads may find nothing)
            while time.monotonic() - began < 25:
                log.read("reader", max_records=10, timeout_s=0.5)
        assert time.monotonic() - began < 15, "refused within a bounded time"
    finally:
        kafka_broker.up()
    log.append([("key", b"50")])
    assert b"50" in [entry.value for entry in read_all(log)], "the same object goes on"
    again = [entry.value for entry in read_all(log, "another")]
    acknowledged = [b"%d" % number for number in range(51)]
    assert [value for value in again if value in acknowledged] == acknowledged
    log.close()


@pytest.mark.usefixtures("kafka_broker")
def test_no_broker_is_refused_in_a_bounded_time() -> None:
    from appliance.core.kafka_log import KafkaLog

    began = time.monotonic()
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9"):
        KafkaLog("127.0.0.1:9", timeout_s=1)
    assert time.monotonic() - began < 5


def test_the_settings_choose_it(kafka_broker: Broker, home: Home) -> None:
    from appliance.core.open_log import open_log

    bootstrap = kafka_broker.status()["bootstrap"]
    log = open_log(home, Settings(log=Log(kind="kafka", bootstrap=bootstrap)))
    key = uuid.uuid4().hex
    log.append([(key, b"{}")])
    assert sum(log.end().values()) >= 1
    log.close()


@pytest.mark.usefixtures("kafka_broker")
def test_kafka_without_a_broker_named_is_a_settings_error(home: Home) -> None:
    from appliance.core.open_log import open_log

    with pytest.raises(SettingsError, match="no broker is named"):
        open_log(home, Settings(log=Log(kind="kafka")))
