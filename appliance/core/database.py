"""The database: SQLite with WAL and synchronous=FULL, its schema made by Alembic."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from appliance.core.errors import IntegrityError, UnavailableError

_BUSY_TIMEOUT_MS = 30_000
_MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """One SQLite file. `read` and `write` give a connection in a transaction."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.QueuePool, pool_size=8)
        event.listen(self.engine, "connect", _configure)
        # Threads of this process take turns here: SQLite's own way to wait sleeps, up to 100 ms.
        self._writing = threading.Lock()

    @classmethod
    def open(cls, path: Path) -> "Database":
        """Open the file, bringing its schema up to this version.

        Raises:
            IntegrityError: the file is no database, or a newer version of Espalier wrote it.
            UnavailableError: the file cannot be written.
        """
        database = cls(path)
        try:
            database._migrate()
        except sa.exc.OperationalError as error:
            raise UnavailableError(
                f"the database {path} cannot be opened: {error.orig}",
                next_step="check free space and permissions with: espalier doctor",
            ) from error
        except sa.exc.DatabaseError as error:
            raise IntegrityError(
                f"{path} is damaged or no database: {error.orig}",
                next_step="restore it from a backup",
            ) from error
        return database

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection that sees one snapshot."""
        with self.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            try:
                yield connection
            finally:
                connection.rollback()

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One write transaction, exclusive from its start; committed unless an error leaves it.

        Raises:
            UnavailableError: the disk is full or the file cannot be written; nothing changed.
        """
        try:
            with self._turn(), self.engine.connect() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    connection.rollback()
                    raise
                connection.commit()
        except sa.exc.OperationalError as error:
            raise UnavailableError(
                f"the database {self.path} cannot be written: {error.orig}",
                next_step="check free space with: espalier doctor",
            ) from error

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._writing.acquire(timeout=_BUSY_TIMEOUT_MS / 1000):
            raise UnavailableError(
                f"the database {self.path} cannot be written: others write to it for too long",
                next_step="try again; espalier doctor says how the disk is",
            )
        try:
            yield
        finally:
            self._writing.release()

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()

    def _migrate(self) -> None:
        """Up to this version. There is no way down: whoever goes back takes a backup."""
        from alembic import command
        from alembic.config import Config
        from alembic.migration import MigrationContext
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        script = ScriptDirectory.from_config(config)
        head = script.get_current_head()
        with self.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            current = MigrationContext.configure(connection).get_current_revision()
            connection.rollback()
        if current == head:
            return
        known = {revision.revision for revision in script.walk_revisions()}
        if current is not None and current not in known:
            raise IntegrityError(
                f"the database {self.path} has schema {current}, this version knows up to {head}",
                next_step="start the version of Espalier that wrote it, or a newer one",
            )
        # Two processes may start at once: the second waits here and then finds nothing to do.
        with self.write() as connection:
            if MigrationContext.configure(connection).get_current_revision() == head:
                return
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _configure(connection: "sa.engine.interfaces.DBAPIConnection", _: object) -> None:
    # We say BEGIN ourselves; sqlite3's own implicit transactions would begin too late.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
    _use_wal(cursor)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _use_wal(cursor: Any) -> None:
    """SQLite's own timeout does not wait for the file, which a change of its mode takes alone."""
    deadline = time.monotonic() + _BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
