"""Publishing files: write, fsync, rename, fsync the folder. Readers never see half a file."""

import ctypes
import os
import tempfile
from pathlib import Path

from appliance.core.errors import UnavailableError

_libc = ctypes.CDLL(None, use_errno=True)


def publish(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Put `data` at `path` in one step; whoever reads sees the old bytes or the new ones.

    Raises:
        UnavailableError: the disk is full or the folder cannot be written; the old bytes stand,
            or the new ones where only the last fsync failed.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
    except OSError as error:
        raise UnavailableError(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).rename(path)
        sync_folder(path.parent)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise UnavailableError(
            f"cannot write {path}: {error.strerror}", next_step="free some space and try again"
        ) from error


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_filesystem(folder: Path) -> None:
    """Make everything durable that was written so far on the file system of `folder`.

    Raises:
        OSError: something could not be written back.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Linux 5.8 and later report write-back errors here, as fsync does.
        if _libc.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(descriptor)
