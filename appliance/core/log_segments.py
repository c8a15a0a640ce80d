"""The embedded log's folder: segment files, the lock, the tail, and a position for each group.

    lock                    held (flock) by whoever changes the log, for one group commit
    tail                    how far the log is durable; readers go no further
    <first offset>.segment  frames (log_frames.py), appended
    positions/<group>       the offset that a consumer reads next

A segment ends where the next one begins: bytes beyond that were never acknowledged.
"""

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import crc32c

from appliance.core.errors import IntegrityError
from appliance.core.files import publish, sync_folder

_TAIL = struct.Struct("<QQQ")
_CHECK = struct.Struct("<I")
_SUFFIX = ".segment"


class Tail(NamedTuple):
    """The durable end of the log: `size` bytes of the segment, and the next offset."""

    segment: int
    size: int
    offset: int


class Segments:
    """Paths and small files of one log folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._prefix = f"{folder}{os.sep}"
        self._positions = folder / "positions"
        self._positions.mkdir(parents=True, exist_ok=True)
        self._tail = os.open(folder / "tail", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the log against other processes. Opened each time, so that a fork shares nothing."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def path(self, segment: int) -> Path:
        """The file of the segment whose first offset is `segment`."""
        return self.folder / f"{segment:020d}{_SUFFIX}"

    def size(self, segment: int) -> int | None:
        """Bytes of a segment's file; None where there is none. Asked at every commit."""
        try:
            return os.stat(f"{self._prefix}{segment:020d}{_SUFFIX}").st_size  # noqa: PTH116
        except FileNotFoundError:
            return None

    def all(self) -> list[int]:
        """First offsets of all segments, in order."""
        return sorted(int(path.stem) for path in self.folder.glob(f"*{_SUFFIX}"))

    def create(self, segment: int) -> int:
        """Make an empty segment whose name is durable, and return its descriptor.

        One of that name, left by an attempt that failed, holds nothing: the tail is moved first.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        descriptor = os.open(self.path(segment), flags, 0o644)
        try:
            sync_folder(self.folder)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def load_tail(self) -> Tail | None:
        """The tail, or None where there is none yet, or a crash of the machine spoiled it."""
        data = os.pread(self._tail, _TAIL.size + _CHECK.size, 0)
        if len(data) < _TAIL.size + _CHECK.size:
            return None
        body = data[: _TAIL.size]
        if _CHECK.unpack_from(data, _TAIL.size)[0] != crc32c.crc32c(body):
            return None
        return Tail(*_TAIL.unpack(body))

    def store_tail(self, tail: Tail) -> None:
        """Show readers the new end. Not fsynced: after a power cut it may be old, never ahead."""
        body = _TAIL.pack(*tail)
        os.pwrite(self._tail, body + _CHECK.pack(crc32c.crc32c(body)), 0)

    def load_position(self, group: str) -> int:
        """The offset that a group reads next; 0 for a new one.

        Raises:
            IntegrityError: the position file is damaged.
        """
        path = self._positions / group
        try:
            text = path.read_text()
        except FileNotFoundError:
            return 0
        if not text.strip().isdecimal():
            raise IntegrityError(
                f"the position of consumer {group} is damaged: {text[:40]!r}",
                next_step=f"delete {path}: it then reads from the start and drops what it has",
            )
        return int(text)

    def store_position(self, group: str, offset: int) -> None:
        """Make a group's position durable, in one step."""
        publish(self._positions / group, f"{offset}\n".encode())

    def highest_position(self) -> int:
        """The furthest that any consumer has come."""
        texts = [p.read_text().strip() for p in self._positions.glob("[!.]*")]
        return max((int(text) for text in texts if text.isdecimal()), default=0)

    def close(self) -> None:
        """Let go of the tail file."""
        os.close(self._tail)
