"""The directory object store: content-addressed, atomic, verified on read."""

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from appliance.core.digests import Digest, digest_bytes, parse_digest, short
from appliance.core.errors import IntegrityError, NotFoundError, UnavailableError
from appliance.core.files import sync_filesystem, sync_folder

_MANY = 16
"""From so many new objects on, the whole file system is flushed instead of each file."""


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
        missing: dict[Path, bytes] = {}
        folders: set[Path] = set()
        for data in items:
            digest = digest_bytes(data)
            digests.append(digest)
            path = self._path(digest)
            # Also of one that is here: whoever put it may have died before its name was durable.
            folders.add(path.parent)
            if not _holds(path, data):
                missing[path] = data
        try:
            if len(missing) < _MANY:
                self._write_each(missing, folders)
            else:
                self._write_together(missing)
        except OSError as error:
            raise UnavailableError(
                f"cannot store an object: {error.strerror}",
                next_step=f"free some space under {self._root} and try again",
            ) from error
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

    def parts_unverified(self, digest: Digest, spans: Iterable[tuple[int, int]]) -> list[bytes]:
        """Parts of an object, as (offset, size): for what is too long to be read whole each time.

        The digest says nothing about a part: the caller has verified the whole, and keeps
        something of each part to know it by.

        Raises:
            NotFoundError: no such object.
        """
        try:
            with self._path(digest).open("rb", buffering=0) as file:
                return [os.pread(file.fileno(), size, offset) for offset, size in spans]
        except FileNotFoundError:
            raise NotFoundError(f"no object {short(digest)}") from None

    def stamp(self, digest: Digest) -> tuple[int, int, int, int]:
        """Changes when the file does: what was verified under a stamp need not be read again soon.

        Raises:
            NotFoundError: no such object.
        """
        try:
            found = self._path(digest).stat()
        except FileNotFoundError:
            raise NotFoundError(f"no object {short(digest)}") from None
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def has(self, digest: Digest) -> bool:
        """Whether the object is here (not whether it is intact)."""
        return self._path(digest).exists()

    def _path(self, digest: Digest) -> Path:
        digits = parse_digest(digest).removeprefix("sha256:")
        return self._root / digits[:2] / digits[2:]

    def _write_each(self, missing: Mapping[Path, bytes], folders: Iterable[Path]) -> None:
        for path, data in missing.items():
            temporary = self._write(path, data, sync=True)
            try:
                temporary.rename(path)
            finally:
                temporary.unlink(missing_ok=True)
        for folder in [*sorted(folders), self._root]:
            sync_folder(folder)

    def _write_together(self, missing: Mapping[Path, bytes]) -> None:
        """Two flushes of the file system, instead of one fsync for each file and folder."""
        written: dict[Path, Path] = {}
        try:
            for path, data in missing.items():
                written[path] = self._write(path, data, sync=False)
            sync_filesystem(self._root)
            for path in missing:
                written[path].rename(path)
                del written[path]
            sync_filesystem(self._root)
        finally:
            for temporary in written.values():
                temporary.unlink(missing_ok=True)

    def _write(self, path: Path, data: bytes, *, sync: bool) -> Path:
        """Write under a name of its own, to be renamed to `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._root, prefix=".put.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return temporary


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except OSError:
        return False
