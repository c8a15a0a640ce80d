"""The event log's port: one topic, ordered per key, durable once `append` returns.

Two forms keep the same promises, checked by one suite (tests/core/test_event_log.py):
`embedded_log` (files on this machine) and `kafka_log` (Apache Kafka). At least once: a consumer
that dies before `commit` reads the same entries again, and drops them by the event's own key
(collector, epoch, sequence). Only `appliance/ingest` appends.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import msgspec

from appliance.core.errors import RecordError, UsageError

TOPIC = "espalier.events"
MAX_VALUE_BYTES = 8 << 20
MAX_KEY_BYTES = 1024

_GROUP = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One record as it stands in the log."""

    topic: str
    partition: int
    offset: int
    """Rises within a partition; there may be gaps."""
    key: str
    value: bytes


class EventLog(ABC):
    """Append and read. One object may be used by many threads, one log by many processes.

    A group is a consumer's name. Each group reads every entry, and one instance of it at a time
    should: the embedded log keeps one position per group, Kafka shares the partitions out.
    """

    @property
    def damaged(self) -> int:
        """Places where this object had to skip bytes that fail their checksum."""
        return 0

    def append(
        self,
        records: Sequence[tuple[str, bytes]],
        *,
        on_written: Callable[[], None] = lambda: None,
    ) -> None:
        """Add (key, value) records in order; all are durable when this returns.

        `on_written` is called as soon as they outlive every process of ours, which may be before
        they outlive a power cut. Should they fail to become durable after all, append them again.

        Raises:
            RecordError: a key or a value is too large; nothing was added.
            UnavailableError: not acknowledged (full disk, failed fsync, dead broker). Some may
                have been written all the same: append the same records again.
        """
        encoded = [(_key_bytes(key), value) for key, value in records]
        for key, value in encoded:
            if len(value) > MAX_VALUE_BYTES:
                raise RecordError(
                    f"an event holds at most {MAX_VALUE_BYTES} bytes, got {len(value)} "
                    f"(key {key[:40]!r})",
                    next_step="put the payload in the object store and log its digest",
                )
        if encoded:
            self._append(encoded, on_written)

    def read(self, group: str, *, max_records: int, timeout_s: float) -> list[Entry]:
        """The next entries of this group, waiting up to `timeout_s` for the first one.

        Starts at the committed position, or at the beginning of the log for a new group, and
        advances in memory only: `commit` makes it last.

        Raises:
            UnavailableError: the log cannot be read now.
        """
        return self._read(_checked_group(group), max_records, timeout_s)

    def commit(self, group: str) -> None:
        """Make durable that everything this object has read in this group is done with.

        Call it after the effect is durable, never before.
        """
        self._commit(_checked_group(group))

    def position(self, group: str) -> dict[int, int]:
        """Committed position by partition: the offset that this group reads next."""
        return self._position(_checked_group(group))

    @abstractmethod
    def end(self) -> dict[int, int]:
        """End by partition: the offset after the last one. `position` reaches it."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections."""

    @abstractmethod
    def _append(
        self, records: Sequence[tuple[bytes, bytes]], on_written: Callable[[], None]
    ) -> None: ...

    @abstractmethod
    def _read(self, group: str, max_records: int, timeout_s: float) -> list[Entry]: ...

    @abstractmethod
    def _commit(self, group: str) -> None: ...

    @abstractmethod
    def _position(self, group: str) -> dict[int, int]: ...


def _key_bytes(key: str) -> bytes:
    try:
        encoded = key.encode()
    except UnicodeEncodeError as error:
        raise RecordError(f"an event's key must be text, got {key[:40]!r}") from error
    if len(encoded) > MAX_KEY_BYTES:
        raise RecordError(f"an event's key has at most {MAX_KEY_BYTES} bytes, got {len(encoded)}")
    return encoded


def _checked_group(group: str) -> str:
    if not _GROUP.fullmatch(group):
        raise UsageError(
            f"a consumer group is lower-case letters, digits, dot, dash, got {group!r}"
        )
    return group
