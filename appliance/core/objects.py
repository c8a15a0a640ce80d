"""The directory object store: content-addressed, atomic, verified on read."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from appliance.core.digests import Digest, digest_bytes, parse_digest, short
from appliance.core.errors import IntegrityError, NotFoundError, UnavailableError
from appliance.core.files import sync_folder


class ObjectStore:
    """Bytes by digest, in a folder. Safe for many processes: an object is written once or not."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, data: bytes) -> Digest:
        """Store bytes durably and return their digest.

        Raises:
            UnavailableError: the disk is full; nothing was stored.
        """
        return self.put_many([data])[0]

    def put_many(self, items: Iterable[bytes]) -> list[Digest]:
        """Store several objects; durable, all of them, when this returns.

        An object that is here already is not written again, unless it is damaged.
        """
        digests: list[Digest] = []
        folders: set[Path] = set()
        for data in items:
            digest = digest_bytes(data)
            digests.append(digest)
            path = self._path(digest)
            if not _holds(path, data):
                self._write(path, data)
            # Also for one that was here: whoever put it may have died before its name was durable.
            folders.add(path.parent)
        try:
            for folder in [*sorted(folders), self._root]:
                sync_folder(folder)
        except OSError as error:
            raise self._unavailable(error) from error
        return digests

    def get(self, digest: Digest) -> bytes:
        """The bytes, verified.

        Raises:
            NotFoundError: no such object.
            IntegrityError: the bytes on disk are not what the digest says.
        """
        try:
            data = self._path(digest).read_bytes()
        except FileNotFoundError:
            raise NotFoundError(f"no object {short(digest)}") from None
        if digest_bytes(data) != digest:
            raise IntegrityError(
                f"object {short(digest)} is damaged on disk", next_step="restore it from a backup"
            )
        return data

    def has(self, digest: Digest) -> bool:
        """Whether the object is here (not whether it is intact)."""
        return self._path(digest).exists()

    def _path(self, digest: Digest) -> Path:
        digits = parse_digest(digest).removeprefix("sha256:")
        return self._root / digits[:2] / digits[2:]

    def _write(self, path: Path, data: bytes) -> None:
        temporary = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self._root, prefix=".put.")
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).rename(path)
        except OSError as error:
            if temporary:
                Path(temporary).unlink(missing_ok=True)
            raise self._unavailable(error) from error

    def _unavailable(self, error: OSError) -> UnavailableError:
        return UnavailableError(
            f"cannot store an object: {error.strerror}",
            next_step=f"free some space under {self._root} and try again",
        )


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except OSError:
        return False
