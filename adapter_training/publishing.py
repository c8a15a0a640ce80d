"""An adapter becomes visible: its folder by one rename, then its row in the database.

Killed between the two, a second run finds the folder, and only adds the row.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from appliance.core.adapters import RECORD, content_digest
from appliance.core.database import Database
from appliance.core.digests import Digest, short
from appliance.core.errors import IntegrityError, NotFoundError
from appliance.core.files import sync_folder
from appliance.core.home import Home
from appliance.core.records import Adapter, decode, encode
from appliance.core.tables import adapters


def publish_adapter(
    home: Home,
    base: Digest,
    save: Callable[[Path], None],
    describe: Callable[[Digest], Adapter],
) -> Adapter:
    """Save into a folder of its own, name it by its content, and put it in place read-only.

    Args:
        save: writes weights and configuration into a folder.
        describe: the record for a content digest.

    Raises:
        IntegrityError: an adapter of that digest is there already, and damaged.
    """
    making = home.adapters / f".making.{short(base)}"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    save(making)
    content = content_digest(making, base)
    folder = home.adapter(content)
    if folder.exists():
        shutil.rmtree(making)
        return read_adapter(home, content, base)
    record = describe(content)
    (making / RECORD).write_bytes(encode(record))
    for file in making.iterdir():
        file.chmod(0o444)
        _sync(file)
    sync_folder(making)
    making.rename(folder)
    folder.chmod(0o555)
    sync_folder(home.adapters)
    return record


def read_adapter(home: Home, content: Digest, base: Digest) -> Adapter:
    """The record of a published adapter, its bytes verified.

    Raises:
        NotFoundError: there is none.
        IntegrityError: its bytes are not what its digest says.
    """
    folder = home.adapter(content)
    if not folder.exists():
        raise NotFoundError(f"no adapter {short(content)} in {home.adapters}")
    if content_digest(folder, base) != content:
        raise IntegrityError(f"adapter {short(content)} in {home.adapters} was changed on disk")
    return decode((folder / RECORD).read_bytes(), Adapter)


def list_adapter(database: Database, record: Adapter, label: str) -> int:
    """The adapter's number in the database; the next free one if it has none yet."""
    with database.write() as connection:
        known = connection.scalar(
            sa.select(adapters.c.number).where(adapters.c.content == record.content)
        )
        if known is not None:
            return int(known)
        last = connection.scalar(sa.select(sa.func.max(adapters.c.number))) or 0
        connection.execute(
            sa.insert(adapters).values(
                content=record.content,
                number=last + 1,
                base=record.base,
                parent=record.parent,
                dataset=record.dataset,
                label=label,
                record=encode(record).decode(),
                created_at=time.time(),
            )
        )
        return int(last) + 1


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
