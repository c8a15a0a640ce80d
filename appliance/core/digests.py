"""Digests: SHA-256 over canonical bytes, with the algorithm's name in the digest.

Canonical JSON is RFC 8785. Arrays of numbers never go into JSON: they are little-endian typed
blobs, referred to by their own digest (`ArrayRef` in records.py).
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NewType

import rfc8785

from appliance.core.errors import RecordError

Digest = NewType("Digest", str)
"""``sha256:`` and 64 lower-case hex digits."""

_CHUNK_BYTES = 1 << 20


def digest_bytes(data: bytes | memoryview) -> Digest:
    """Digest of raw bytes."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def digest_json(value: Any) -> Digest:
    """Digest of a JSON value in its RFC 8785 form.

    Raises:
        RecordError: no canonical form (NaN, an integer beyond 2^53, a lone surrogate).
    """
    return digest_bytes(canonical_json(value))


def digest_file(path: Path) -> Digest:
    """Digest of a file's bytes, read in chunks."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            state.update(chunk)
    return Digest("sha256:" + state.hexdigest())


def digest_files(root: Path, names: Iterable[str]) -> Digest:
    """One digest over several files: the digest of ``{name: digest of its bytes}``."""
    return digest_json({name: digest_file(root / name) for name in sorted(names)})


def canonical_json(value: Any) -> bytes:
    """RFC 8785 bytes of a JSON value.

    Raises:
        RecordError: the value has no canonical form.
    """
    try:
        data: bytes = rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise RecordError(f"no canonical JSON form: {error}") from error
    return data


def parse_digest(text: str) -> Digest:
    """The digest that `text` spells out in full.

    Raises:
        RecordError: it is not ``sha256:`` and 64 lower-case hex digits.
    """
    name, _, digits = text.partition(":")
    if name != "sha256" or len(digits) != 64 or set(digits) - set("0123456789abcdef"):
        raise RecordError(f"expected sha256: and 64 hex digits, got {text[:80]!r}")
    return Digest(text)


def hash_key(secret: str) -> str:
    """What is kept of an agent's key: it is 256 random bits, so SHA-256 needs no salt."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def short(digest: str) -> str:
    """The first 12 hex digits, for people."""
    return digest.removeprefix("sha256:")[:12]
