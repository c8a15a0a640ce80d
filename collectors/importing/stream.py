"""The JSON records of a file, one at a time, in bounded memory.

A file is lines of JSON, an array of objects, or one object (or several, one after another). Which
of these is decided by its first bytes, never by its name.
"""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from appliance.core.errors import NotFoundError, RecordError, UnavailableError
from collectors.importing.draft import Skipped
from policies.redaction import is_too_deep

RECORD_MAX_BYTES = 64 << 20
"""A single record above this is refused; a file may be of any size."""

_READABLE = "give OpenAI chat JSONL, tau-bench result JSON or SWE-agent .traj"
_HEAD_BYTES = 64 << 10
_CHUNK_BYTES = 1 << 20
_STRUCTURE = re.compile(rb'["{}\[\]]')
_IN_STRING = re.compile(rb'\\.|"', re.DOTALL)
_KNOWN_BINARIES = {
    b"\x1f\x8b": "gzip: unpack it first",
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"\x28\xb5\x2f\xfd": "zstd: unpack it first",
    b"BZh": "bzip2: unpack it first",
    b"PAR1": "Parquet, which is not read here",
    b"\xff\xfe": "UTF-16: convert it to UTF-8",
    b"\xfe\xff": "UTF-16: convert it to UTF-8",
}


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A JSON object and its place in the file."""

    where: str
    value: dict[str, Any]


def records(path: Path) -> Iterator[Found | Skipped]:
    """Every JSON object of the file in order; what does not parse comes as `Skipped`.

    Raises:
        RecordError: the file as a whole is nothing that can be read: binary, empty, not JSON.
        NotFoundError: there is no such file.
        UnavailableError: it cannot be read.
    """
    try:
        if not path.exists():
            raise NotFoundError(f"no such file: {path}", next_step="give a file that exists")
        if not path.is_file():
            raise RecordError(f"{path} is not a regular file", next_step=_READABLE)
        with path.open("rb") as file:
            start = _skip_mark(file)
            lines = _is_lines(path, file, start)
            file.seek(start)
            yield from _lines(file) if lines else _values(file)
    except OSError as error:
        raise UnavailableError(f"cannot read {path}: {error.strerror}") from error


def _skip_mark(file: BinaryIO) -> int:
    """Where the text starts: after a UTF-8 byte order mark, if there is one."""
    return 3 if file.read(3) == codecs.BOM_UTF8 else 0


def _is_lines(path: Path, file: BinaryIO, start: int) -> bool:
    file.seek(start)
    head = file.read(_HEAD_BYTES)
    _require_text(path, head)
    first = head.lstrip()[:1]
    if first == b"[":
        return False
    following = [line for line in head.split(b"\n") if line.strip()]
    if first != b"{":
        if any(line.startswith(b"{") for line in following):
            return True
        raise RecordError(
            f"{path} does not hold JSON: it starts with {head[:20]!r}",
            next_step=_READABLE,
        )
    file.seek(start)
    line = file.readline(RECORD_MAX_BYTES + 1)
    while line and not line.strip():
        line = file.readline(RECORD_MAX_BYTES + 1)
    if isinstance(_parse(line, ""), Found):
        return True
    return len(following) > 1 and following[1].startswith(b'{"')


def _require_text(path: Path, head: bytes) -> None:
    if not head.strip():
        raise RecordError(f"{path} is empty", next_step=_READABLE)
    for mark, what in _KNOWN_BINARIES.items():
        if head.startswith(mark):
            raise RecordError(f"{path} is binary ({what})", next_step=_READABLE)
    if b"\0" in head:
        raise RecordError(
            f"{path} is binary (it holds NUL bytes), expected JSON text", next_step=_READABLE
        )
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError as error:
        raise RecordError(
            f"{path} is binary (not UTF-8 at byte {error.start})", next_step=_READABLE
        ) from error


def _lines(file: BinaryIO) -> Iterator[Found | Skipped]:
    number = 0
    while line := file.readline(RECORD_MAX_BYTES + 1):
        number += 1
        if len(line) > RECORD_MAX_BYTES:
            while line and not line.endswith(b"\n"):
                line = file.readline(_CHUNK_BYTES)
            yield _too_large(f"line {number}")
        elif line.strip():
            yield _parse(line, f"line {number}")


def _values(file: BinaryIO) -> Iterator[Found | Skipped]:
    """Objects at the top level, or one level down in arrays, found by counting brackets."""
    base = depth = 0
    number = 0
    in_string = False
    value: bytearray | None = None
    while chunk := file.read(_CHUNK_BYTES):
        while chunk.endswith(b"\\") and (more := file.read(1)):
            chunk += more
        begin = at = 0
        while match := (_IN_STRING if in_string else _STRUCTURE).search(chunk, at):
            at = match.end()
            mark = match.group()
            if mark == b'"':
                in_string = not in_string
            elif in_string:
                continue  # an escaped character
            elif mark in b"{[":
                if not depth:
                    base = 1 if mark == b"[" else 0
                depth += 1
                if depth == base + 1 and mark == b"{":
                    value, begin = bytearray(), match.start()
            else:
                depth -= 1
                if depth == base and value is not None:
                    number += 1
                    value += chunk[begin:at]
                    yield _parse(bytes(value), f"record {number}")
                    value = None
        if value is not None:
            value += chunk[begin:]
            if len(value) > RECORD_MAX_BYTES:
                yield _too_large(f"record {number + 1}")
                return
    if value is not None or depth > 0:
        yield Skipped(
            where=f"record {number + 1}",
            reason="malformed",
            detail="the file ends inside a record: it was cut off, or a bracket is missing",
        )


def _parse(data: bytes, where: str) -> Found | Skipped:
    # NaN and Infinity, which Python writes but JSON does not know, become null.
    try:
        value = json.loads(data, parse_constant=lambda _: None)
    except RecursionError:
        return Skipped(where=where, reason="malformed", detail="nested too deeply")
    except UnicodeDecodeError as error:
        return Skipped(where=where, reason="malformed", detail=f"not UTF-8: byte {error.start}")
    except ValueError as error:
        return Skipped(where=where, reason="malformed", detail=f"not JSON: {error}")
    if is_too_deep(value):
        return Skipped(where=where, reason="malformed", detail="nested too deeply")
    if not isinstance(value, dict):
        detail = f"expected an object, got {type(value).__name__}"
        return Skipped(where=where, reason="malformed", detail=detail)
    return Found(where=where, value=value)


def _too_large(where: str) -> Skipped:
    limit = RECORD_MAX_BYTES >> 20
    return Skipped(where=where, reason="too_large", detail=f"a record holds at most {limit} MiB")
