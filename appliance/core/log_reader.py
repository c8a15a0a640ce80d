"""The embedded log's reading side: a cursor for each group, never beyond the durable tail."""

import logging
import os
from bisect import bisect_right
from collections.abc import Iterator

from appliance.core.event_log import TOPIC, Entry
from appliance.core.log_frames import Damage, Frame, scan
from appliance.core.log_segments import Segments, Tail

_logger = logging.getLogger(__name__)


class Cursor:
    """Where one group stands. Not thread-safe: `EmbeddedLog` gives each group its own lock."""

    def __init__(self, segments: Segments, *, offset: int) -> None:
        self._segments = segments
        self.offset = offset
        self.damaged = 0
        self._segment = -1
        self._place = 0
        """Byte in `_segment` from which to read on."""

    def take(self, max_records: int) -> list[Entry]:
        """Up to `max_records` entries that are there already; advances past them."""
        tail = self._segments.load_tail()
        entries: list[Entry] = []
        if tail is None or self.offset >= tail.offset:
            return entries
        for frame in self._frames(tail):
            entries.append(_entry(frame))
            if len(entries) == max_records:
                break
        return entries

    def _frames(self, tail: Tail) -> Iterator[Frame]:
        segments = [s for s in self._segments.all() if s <= tail.segment]
        first = max(bisect_right(segments, self.offset) - 1, 0)
        for index in range(first, len(segments)):
            segment = segments[index]
            last = segment == tail.segment
            ends_before = tail.offset if last else segments[index + 1]
            yield from self._frames_of(segment, tail.size if last else None, ends_before)
            self.offset = max(self.offset, ends_before)

    def _frames_of(self, segment: int, size: int | None, ends_before: int) -> Iterator[Frame]:
        if segment != self._segment:
            self._segment, self._place = segment, 0
        descriptor = os.open(self._segments.path(segment), os.O_RDONLY | os.O_CLOEXEC)
        try:
            end = os.fstat(descriptor).st_size if size is None else size
            for piece in scan(lambda n, at: os.pread(descriptor, n, at), self._place, end):
                self._place = piece.end
                if isinstance(piece, Damage):
                    self._report(segment, piece)
                elif piece.offset >= ends_before:
                    return
                elif piece.offset >= self.offset:
                    self.offset = piece.offset + 1
                    yield piece
        finally:
            os.close(descriptor)

    def _report(self, segment: int, damage: Damage) -> None:
        self.damaged += 1
        _logger.error(
            "event log %s: skipped %d damaged bytes at %d",
            self._segments.path(segment),
            damage.end - damage.start,
            damage.start,
        )


def _entry(frame: Frame) -> Entry:
    return Entry(
        topic=TOPIC,
        partition=0,
        offset=frame.offset,
        key=frame.key.decode(),
        value=frame.value,
    )
