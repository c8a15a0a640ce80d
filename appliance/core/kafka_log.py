"""The event log on Apache Kafka: idempotent producer, acks=all, positions committed by hand.

The topic is made where it is missing, with no retention limit; how many replicas it has and how
many of them an acknowledgement needs is the broker's configuration. Within a key the order is
that of `append`, because a key always goes to the same partition.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import KafkaError, RetriableError, TopicAlreadyExistsError

from appliance.core.errors import SettingsError, UnavailableError
from appliance.core.event_log import MAX_KEY_BYTES, MAX_VALUE_BYTES, TOPIC, Entry, EventLog

_MAX_RECORD_BYTES = MAX_VALUE_BYTES + MAX_KEY_BYTES + 4096
_SESSION_TIMEOUT_MS = 10_000
_RETRY_S = 0.1
_SILENCE_S = 5.0
"""After so long without a record, reading asks whether the broker is there at all."""


class KafkaLog(EventLog):
    """A topic that is an event log.

    Raises:
        SettingsError: no broker is named.
        UnavailableError: the broker does not answer within `timeout_s`.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        topic: str = TOPIC,
        num_partitions: int = 8,
        timeout_s: float = 10.0,
    ) -> None:
        if not bootstrap:
            raise SettingsError(
                "[log] kind is kafka, but no broker is named",
                next_step='set [log] bootstrap = "HOST:PORT"',
            )
        self._topic = topic
        self._timeout_s = timeout_s
        self._network = {
            "bootstrap_servers": bootstrap,
            "bootstrap_timeout_ms": int(timeout_s * 1000),
            "request_timeout_ms": int(timeout_s * 1000),
            "reconnect_backoff_max_ms": 1000,
        }
        self._lock = threading.Lock()
        self._producer: KafkaProducer | None = None
        self._groups: dict[str, _Group] = {}
        self._admin = self._call(lambda: KafkaAdminClient(**self._network))
        self._partitions = self._call(lambda: self._find_partitions(num_partitions))

    def end(self) -> dict[int, int]:
        """The offset after the last record of each partition."""
        wanted = {self._partition(number): OffsetSpec.LATEST for number in self._partitions}
        with self._lock:
            found = self._call(lambda: self._admin.list_partition_offsets(wanted))
        return {partition.partition: found[partition].offset for partition in sorted(found)}

    def close(self) -> None:
        """Leave the groups and close every connection."""
        with self._lock:
            for group in self._groups.values():
                with suppress(KafkaError):
                    group.consumer.close(autocommit=False, timeout_ms=2000)
            self._groups.clear()
            if self._producer is not None:
                self._producer.close(timeout=2)
                self._producer = None
            self._admin.close()

    def _append(
        self, records: Sequence[tuple[bytes, bytes]], on_written: Callable[[], None]
    ) -> None:
        producer = self._current_producer()
        try:
            sent = [producer.send(self._topic, key=key, value=value) for key, value in records]
            for future in sent:
                future.get(timeout=self._timeout_s + 1)
            on_written()
        except KafkaError as error:
            # Its sequence numbers may now have a gap; a fresh producer starts without one.
            self._drop_producer(producer)
            raise self._unavailable(error) from error

    def _read(self, group: str, max_records: int, timeout_s: float) -> list[Entry]:
        reading = self._group(group)
        with reading.lock:
            polled = self._call(
                lambda: reading.consumer.poll(int(timeout_s * 1000), max_records=max_records)
            )
            if not polled and time.monotonic() - reading.heard_at > _SILENCE_S:
                self.end()
                reading.heard_at = time.monotonic()
            if polled:
                reading.heard_at = time.monotonic()
        return [_entry(record) for records in polled.values() for record in records]

    def _commit(self, group: str) -> None:
        reading = self._group(group)
        with reading.lock:
            self._call(lambda: reading.consumer.commit(timeout_ms=int(self._timeout_s * 1000)))

    def _position(self, group: str) -> dict[int, int]:
        wanted = [self._partition(number) for number in self._partitions]
        with self._lock:
            found = self._call(lambda: self._admin.list_group_offsets({group: wanted}))[group]
        known = {partition.partition: found[partition].offset for partition in found}
        return {number: max(known.get(number, 0), 0) for number in self._partitions}

    def _current_producer(self) -> KafkaProducer:
        with self._lock:
            if self._producer is None:
                self._producer = self._call(self._new_producer)
            return self._producer

    def _new_producer(self) -> KafkaProducer:
        return KafkaProducer(
            **self._network,
            acks="all",
            enable_idempotence=True,
            delivery_timeout_ms=int(self._timeout_s * 1000),
            max_block_ms=int(self._timeout_s * 1000),
            max_request_size=_MAX_RECORD_BYTES,
        )

    def _drop_producer(self, producer: KafkaProducer) -> None:
        with self._lock:
            if self._producer is producer:
                self._producer = None
        producer.close(timeout=0)

    def _group(self, name: str) -> "_Group":
        with self._lock:
            if name not in self._groups:
                self._groups[name] = _Group(self._call(lambda: self._new_consumer(name)))
            return self._groups[name]

    def _new_consumer(self, group: str) -> KafkaConsumer:
        consumer = KafkaConsumer(
            **self._network,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=_SESSION_TIMEOUT_MS,
            max_partition_fetch_bytes=_MAX_RECORD_BYTES,
        )
        consumer.subscribe([self._topic])
        return consumer

    def _find_partitions(self, num_partitions: int) -> list[int]:
        options = {
            "num_partitions": num_partitions,
            "configs": {"retention.ms": "-1", "max.message.bytes": str(_MAX_RECORD_BYTES)},
        }
        with suppress(TopicAlreadyExistsError):
            self._admin.create_topics({self._topic: options}, wait_for_metadata=True)
        (described,) = self._admin.describe_topics([self._topic])
        return sorted(partition["partition_index"] for partition in described["partitions"])

    def _partition(self, number: int) -> TopicPartition:
        return TopicPartition(self._topic, number)

    def _call(self, action: Callable[[], Any]) -> Any:
        """What `action` returns, tried again for a while if the broker says that it may be."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                return action()
            except KafkaError as error:
                if not isinstance(error, RetriableError) or time.monotonic() > deadline:
                    raise self._unavailable(error) from error
            time.sleep(_RETRY_S)

    def _unavailable(self, error: KafkaError) -> UnavailableError:
        return UnavailableError(
            f"the Kafka broker {self._network['bootstrap_servers']} did not do it: "
            f"{type(error).__name__} {error}",
            next_step="see that the broker runs, then try again: nothing acknowledged is lost",
        )


class _Group:
    def __init__(self, consumer: KafkaConsumer) -> None:
        self.consumer = consumer
        self.lock = threading.Lock()
        self.heard_at = time.monotonic()


def _entry(record: Any) -> Entry:
    return Entry(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=record.key.decode(),
        value=record.value,
    )
