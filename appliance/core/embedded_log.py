"""The event log as files on this machine: segments, CRC32C per record, group-commit fsync.

Threads that append at the same time share one fsync. Processes take turns by a file lock.
What is not here: retention (nothing is deleted) and sharing a group out between consumers.
"""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from appliance.core.errors import UnavailableError
from appliance.core.event_log import Entry, EventLog
from appliance.core.log_reader import Cursor
from appliance.core.log_segments import Segments
from appliance.core.log_writer import Writer

_POLL_S = 0.02
_SEGMENT_BYTES = 64 << 20


class EmbeddedLog(EventLog):
    """A folder that is an event log with one partition.

    Raises:
        UnavailableError: the folder cannot be written.
    """

    def __init__(self, folder: Path, *, segment_bytes: int = _SEGMENT_BYTES) -> None:
        try:
            self._segments = Segments(folder)
        except OSError as error:
            raise UnavailableError(
                f"cannot open the event log in {folder}: {error.strerror}",
                next_step="check free space and permissions with: espalier doctor",
            ) from error
        self._writer = Writer(self._segments, segment_bytes=segment_bytes)
        self._waiting: list[_Batch] = []
        self._waiting_lock = threading.Lock()
        self._commit_lock = threading.Lock()
        self._cursors: dict[str, _Group] = {}
        self._cursors_lock = threading.Lock()
        self._writer.recover()

    @property
    def damaged(self) -> int:
        """Damaged places skipped so far, over all groups read here."""
        return sum(group.cursor.damaged for group in self._cursors.values())

    def end(self) -> dict[int, int]:
        """The offset after the last durable record."""
        tail = self._segments.load_tail()
        return {0: tail.offset if tail else 0}

    def close(self) -> None:
        """Close the files. Nothing is pending: `append` returns only when it is durable."""
        self._writer.close()
        self._segments.close()

    def _append(
        self, records: Sequence[tuple[bytes, bytes]], on_written: Callable[[], None]
    ) -> None:
        batch = _Batch(records, on_written)
        with self._waiting_lock:
            self._waiting.append(batch)
        # Whoever gets the lock commits for all who wait; they then find their batch done.
        with self._commit_lock:
            if not batch.done:
                self._commit_waiting()
        if batch.error is not None:
            raise UnavailableError(batch.error.message, next_step=batch.error.next_step)

    def _commit_waiting(self) -> None:
        with self._waiting_lock:
            batches, self._waiting = self._waiting, []
        error: UnavailableError | None = UnavailableError("the commit was interrupted")
        try:
            self._writer.commit(
                [record for batch in batches for record in batch.records],
                lambda: [batch.on_written() for batch in batches],
            )
            error = None
        except UnavailableError as failure:
            error = failure
        finally:
            for batch in batches:
                batch.done, batch.error = True, error

    def _read(self, group: str, max_records: int, timeout_s: float) -> list[Entry]:
        reading = self._group(group)
        deadline = time.monotonic() + timeout_s
        with reading.lock:
            while not (entries := self._take(reading.cursor, max_records)):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                time.sleep(min(_POLL_S, left))
        return entries

    def _take(self, cursor: Cursor, max_records: int) -> list[Entry]:
        try:
            return cursor.take(max_records)
        except OSError as error:
            raise UnavailableError(
                f"the event log in {self._segments.folder} cannot be read: {error.strerror}"
            ) from error

    def _commit(self, group: str) -> None:
        reading = self._group(group)
        with reading.lock:
            self._segments.store_position(group, reading.cursor.offset)

    def _position(self, group: str) -> dict[int, int]:
        return {0: self._segments.load_position(group)}

    def _group(self, group: str) -> "_Group":
        with self._cursors_lock:
            if group not in self._cursors:
                start = self._segments.load_position(group)
                self._cursors[group] = _Group(Cursor(self._segments, offset=start))
            return self._cursors[group]


class _Batch:
    """One caller's records on their way to the disk."""

    def __init__(
        self, records: Sequence[tuple[bytes, bytes]], on_written: Callable[[], None]
    ) -> None:
        self.records = records
        self.on_written = on_written
        self.done = False
        self.error: UnavailableError | None = None


class _Group:
    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.lock = threading.Lock()
