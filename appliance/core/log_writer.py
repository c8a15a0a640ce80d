"""The embedded log's writing side: one group commit is lock, write, fsync, show, unlock.

After any failure nothing is assumed about the bytes: what lies beyond the durable tail is cut
off, and after a failed fsync the segment is left for a fresh one as well, because the kernel may
have dropped the pages and a second fsync of the same file would report success.
"""

import os
from collections.abc import Callable, Iterable

from appliance.core.errors import UnavailableError
from appliance.core.files import sync_folder
from appliance.core.log_frames import Frame, pack, scan
from appliance.core.log_segments import Segments, Tail


class Writer:
    """Appends to the newest segment. Not thread-safe: `EmbeddedLog` lets in one at a time."""

    def __init__(self, segments: Segments, *, segment_bytes: int) -> None:
        self._segments = segments
        self._segment_bytes = segment_bytes
        self._open: tuple[int, int] | None = None
        """(segment, descriptor), kept open so that a late write-back error is reported to us."""
        self._distrusted: int | None = None
        """A segment whose fsync failed, until a fresh one is begun."""

    def recover(self) -> None:
        """Cut off a torn tail and make what is left durable. Cheap where all is in order."""
        try:
            with self._segments.locked():
                self._settled_tail()
        except OSError as error:
            raise self._unavailable(error) from error

    def commit(
        self, records: Iterable[tuple[bytes, bytes]], on_written: Callable[[], object]
    ) -> None:
        """Write records, call `on_written`, and fsync once.

        What was written is found again after a kill -9: `recover` keeps every intact frame.

        Raises:
            UnavailableError: nothing of this was acknowledged, and the log can still be used.
        """
        try:
            with self._segments.locked():
                self._commit(records, on_written)
        except OSError as error:
            raise self._unavailable(error) from error

    def close(self) -> None:
        """Close the segment's file."""
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    def _commit(
        self, records: Iterable[tuple[bytes, bytes]], on_written: Callable[[], object]
    ) -> None:
        tail = self._settled_tail()
        if tail.size >= self._segment_bytes:
            tail = self._begin(tail.offset)
        descriptor = self._descriptor(tail.segment)
        frames = [pack(tail.offset + i, *record) for i, record in enumerate(records)]
        data = b"".join(frames)
        try:
            _write_all(descriptor, data, tail.size)
        except OSError:
            os.ftruncate(descriptor, tail.size)
            raise
        on_written()
        try:
            os.fsync(descriptor)
        except OSError:
            self._distrusted = tail.segment
            os.ftruncate(descriptor, tail.size)
            raise
        after = Tail(tail.segment, tail.size + len(data), tail.offset + len(frames))
        self._segments.store_tail(after)

    def _settled_tail(self) -> Tail:
        """The tail, after mending what a writer that died may have left."""
        tail = self._segments.load_tail()
        if tail is not None and tail.segment == self._distrusted:
            os.ftruncate(self._descriptor(tail.segment), tail.size)
            # An empty segment has the name that the fresh one would get, so one offset is left out.
            return self._begin(tail.offset + (tail.size == 0))
        if tail is not None and self._matches(tail):
            return tail
        segments = self._segments.all()
        if not segments:
            return self._begin(self._segments.highest_position())
        if tail is None or tail.segment != segments[-1]:
            tail = Tail(segments[-1], 0, segments[-1])
        return self._mend(tail)

    def _matches(self, tail: Tail) -> bool:
        names = {tail.offset, tail.offset + 1} - {tail.segment}
        return self._segments.size(tail.segment) == tail.size and all(
            self._segments.size(name) is None for name in names
        )

    def _mend(self, known: Tail) -> Tail:
        """Keep every intact frame after `known`, cut what follows the last one, fsync."""
        descriptor = self._descriptor(known.segment)
        size = os.fstat(descriptor).st_size
        # A disk that lied about fsync may have lost more than the last write.
        lied = size < known.size
        end, offset = (0, known.segment) if lied else (known.size, known.offset)
        pieces = scan(lambda n, at: os.pread(descriptor, n, at), end, size)
        for frame in (piece for piece in pieces if isinstance(piece, Frame)):
            end, offset = frame.end, frame.offset + 1
        os.ftruncate(descriptor, end)
        os.fsync(descriptor)
        sync_folder(self._segments.folder)
        # An offset that a consumer has passed must never be given to a new record.
        tail = Tail(known.segment, end, max(offset, self._segments.highest_position()))
        self._segments.store_tail(tail)
        return tail

    def _begin(self, offset: int) -> Tail:
        """A fresh segment, empty."""
        descriptor = self._segments.create(offset)
        self.close()
        self._open = (offset, descriptor)
        tail = Tail(offset, 0, offset)
        self._segments.store_tail(tail)
        self._distrusted = None
        return tail

    def _descriptor(self, segment: int) -> int:
        if self._open is not None and self._open[0] == segment:
            return self._open[1]
        self.close()
        path = self._segments.path(segment)
        self._open = (segment, os.open(path, os.O_RDWR | os.O_CLOEXEC))
        return self._open[1]

    def _unavailable(self, error: OSError) -> UnavailableError:
        return UnavailableError(
            f"the event log in {self._segments.folder} did not take the records: {error.strerror}",
            next_step="free some space or mend the disk, then send them again",
        )


def _write_all(descriptor: int, data: bytes, position: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, position)
        view, position = view[written:], position + written
