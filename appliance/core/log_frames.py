"""How a record stands in a segment file, and how to read on after damage. No files here.

A frame is a header and a payload (key, then value). The header carries its own CRC32C besides
the payload's, so a damaged payload costs one record: its length can still be trusted. After a
damaged header the next frame is found by its mark. Values are JSON, which cannot hold the
header's zero bytes, so no payload can pass for a frame.
"""

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

import crc32c

_MARK = b"\xe5PLR"
# Mark, payload's length, offset, key's length, payload's CRC32C; then the CRC32C of those.
_HEADER = struct.Struct("<4sIQII")
_CHECK = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CHECK.size
_WINDOW_BYTES = 1 << 20


class Frame(NamedTuple):
    """An intact record, and the bytes of the file that it takes."""

    offset: int
    key: bytes
    value: bytes
    start: int
    end: int


class Damage(NamedTuple):
    """Bytes that belong to no intact record: bit rot, or a torn tail."""

    start: int
    end: int


class _Header(NamedTuple):
    length: int
    offset: int
    key_length: int
    payload_crc: int


def pack(offset: int, key: bytes, value: bytes) -> bytes:
    """One frame."""
    payload = key + value
    header = _HEADER.pack(_MARK, len(payload), offset, len(key), crc32c.crc32c(payload))
    return header + _CHECK.pack(crc32c.crc32c(header)) + payload


def scan(read: Callable[[int, int], bytes], start: int, end: int) -> Iterator[Frame | Damage]:
    """Every frame from `start`, which must be a frame's beginning, up to `end`.

    `read(size, position)` gives the file's bytes, fewer where the file ends. Damage that reaches
    `end` is a torn tail, or cannot be told from one.
    """
    window = _Window(read, end)
    position = start
    while position < end:
        header = _parse(window.take(position, HEADER_BYTES))
        if header is None:
            stop = _next_frame(window, position + 1, end)
            yield Damage(position, stop)
            position = stop
            continue
        body, stop = position + HEADER_BYTES, position + HEADER_BYTES + header.length
        if stop > end:
            yield Damage(position, end)
            return
        payload = window.take(body, header.length)
        if len(payload) == header.length and crc32c.crc32c(payload) == header.payload_crc:
            key, value = payload[: header.key_length], payload[header.key_length :]
            yield Frame(header.offset, key, value, position, stop)
        else:
            yield Damage(position, stop)
        position = stop


def _parse(data: bytes) -> _Header | None:
    if len(data) < HEADER_BYTES or not data.startswith(_MARK):
        return None
    if _CHECK.unpack_from(data, _HEADER.size)[0] != crc32c.crc32c(data[: _HEADER.size]):
        return None
    _, length, offset, key_length, payload_crc = _HEADER.unpack_from(data)
    return _Header(length, offset, key_length, payload_crc)


def _next_frame(window: "_Window", start: int, end: int) -> int:
    """Where the next header that checks out begins, or `end`."""
    position = start
    while position < end:
        data = window.take(position, min(_WINDOW_BYTES, end - position))
        at = data.find(_MARK)
        while at >= 0:
            if _parse(window.take(position + at, HEADER_BYTES)) is not None:
                return position + at
            at = data.find(_MARK, at + 1)
        # A mark may lie across the border of two windows.
        position += max(len(data) - len(_MARK) + 1, 1)
    return end


class _Window:
    """Reads ahead, so that a scan makes few calls."""

    def __init__(self, read: Callable[[int, int], bytes], end: int) -> None:
        self._read = read
        self._end = end
        self._start = 0
        self._data = b""

    def take(self, position: int, size: int) -> bytes:
        """`size` bytes at `position`; fewer at the end."""
        at = position - self._start
        if at < 0 or at + size > len(self._data):
            ahead = min(max(size, _WINDOW_BYTES), self._end - position)
            self._start, self._data, at = position, self._read(ahead, position), 0
        return self._data[at : at + size]
