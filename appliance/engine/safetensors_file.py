"""Safetensors files as bytes: their headers, checked, and shards joined into one file.

Format: 8 bytes little-endian header size, a JSON header, then the tensors' bytes. Nothing in it
is ever executed. No tensors here: whoever needs numbers reads them with a tensor library.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from appliance.core.errors import IntegrityError, UnavailableError

_HEADER_MAX_BYTES = 100_000_000
_CHUNK_BYTES = 1 << 22
_AGAIN = "copy the file again from where it was made, or save the model as safetensors again"


class TensorEntry(msgspec.Struct, frozen=True):
    """One tensor of a header; `data_offsets` count from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_header(path: Path) -> tuple[dict[str, TensorEntry], int]:
    """The tensors of a file, and where their bytes begin.

    Raises:
        IntegrityError: not a safetensors file, or cut short.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_HEADER_MAX_BYTES, size - 8):
            raise IntegrityError(f"{path.name} is not a safetensors file", next_step=_AGAIN)
        raw = file.read(length)
    try:
        header: dict[str, Any] = msgspec.json.decode(raw)
        header.pop("__metadata__", None)
        entries = msgspec.convert(header, dict[str, TensorEntry])
    except (msgspec.DecodeError, msgspec.ValidationError, AttributeError) as error:
        raise IntegrityError(
            f"{path.name} is not a safetensors file: {error}", next_step=_AGAIN
        ) from error
    end = max((entry.data_offsets[1] for entry in entries.values()), default=0)
    if not entries or 8 + length + end != size:
        raise IntegrityError(
            f"{path.name} is cut short: its header says {8 + length + end} bytes, it has {size}",
            next_step=_AGAIN,
        )
    return entries, 8 + length


def join(shards: Sequence[Path], target: Path) -> None:
    """Write the tensors of several files, in the order of their names, into one.

    Raises:
        IntegrityError: a shard is damaged, or two shards hold the same tensor.
        UnavailableError: the disk is full.
    """
    joined: dict[str, TensorEntry] = {}
    sources: list[tuple[Path, int]] = []
    offset = 0
    for shard in shards:
        entries, start = read_header(shard)
        sources.append((shard, start))
        for name, entry in entries.items():
            if name in joined:
                raise IntegrityError(f"{shard.name}: tensor {name} stands in two files")
            first, last = entry.data_offsets
            joined[name] = TensorEntry(entry.dtype, entry.shape, (offset + first, offset + last))
        offset += max(entry.data_offsets[1] for entry in entries.values())
    header = msgspec.json.encode({"__metadata__": {"format": "pt"}, **joined})
    header += b" " * (-len(header) % 8)
    try:
        with target.open("wb") as out:
            out.write(len(header).to_bytes(8, "little") + header)
            for path, start in sources:
                with path.open("rb") as file:
                    file.seek(start)
                    while chunk := file.read(_CHUNK_BYTES):
                        out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise UnavailableError(f"cannot write {target.name}: {error.strerror}") from error
