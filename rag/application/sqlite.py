"""The application database as an SQLite file."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rag.application.backend import Transaction, has_tables
from rag.application.explain import broken, busy
from rag.errors import ConfigError

if TYPE_CHECKING:
    import sqlalchemy as sa

_log = logging.getLogger("rag")


class Sqlite:
    """Transactions begin where we say, and those that write begin by locking."""

    has_one_writer = True

    def __init__(self, url: str, busy_seconds: float) -> None:
        import sqlalchemy as sa

        address = sa.make_url(url)
        if address.database in (None, "", ":memory:"):
            raise ConfigError(
                "The application database of SQLite must be a file.", "Give it as sqlite:///path."
            )
        self._sa = sa
        self._path = Path(str(address.database))
        self._busy_seconds = busy_seconds
        self._engine = sa.create_engine(
            address, connect_args={"timeout": busy_seconds}, hide_parameters=True
        )
        sa.event.listen(self._engine, "connect", _set_up_sqlite)
        sa.event.listen(self._engine, "begin", _begin_sqlite)
        self._writes = self._engine.execution_options(writing=True)
        # Kept, for taking it from the pool costs as much as a statement. Waiting for it here is
        # fair and quick; SQLite would sleep and look again.
        self._writer: sa.Connection | None = None
        self._alone = threading.Lock()

    def is_absent(self) -> bool:
        """Also while another process makes the file: a reader in the way could cost it the WAL."""
        try:
            return self._path.stat().st_size == 0
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError as error:
            raise broken(error.strerror) from error

    def create(self, metadata: sa.MetaData) -> None:
        from filelock import FileLock, Timeout

        if not self.is_absent() and has_tables(self._engine, metadata):
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Changing the journal's mode does not wait for others, and tables are made only once.
            with FileLock(f"{self._path}.lock", timeout=self._busy_seconds):
                self._write_ahead()
                with self.writing() as connection:
                    metadata.create_all(connection)
        except Timeout:
            raise busy() from None
        except OSError as error:
            raise broken(error.strerror) from error

    def reading(self) -> Transaction:
        return self._engine.begin()

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        with self._alone:
            self._writer = self._writer or self._writes.connect()
            try:
                with self._writer.begin():
                    yield self._writer
            except self._sa.exc.SQLAlchemyError:
                self._forget_writer()
                raise

    def close(self) -> None:
        with self._alone:
            self._forget_writer()
        self._engine.dispose()

    def _forget_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _write_ahead(self) -> None:
        """Readers then do not wait for writers. All works without it too: no need to insist."""
        connection = self._engine.raw_connection()
        try:
            connection.cursor().execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            _log.info("The application database has no write-ahead log: %s", error)
        finally:
            connection.close()


def _set_up_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: sa.Connection) -> None:
    writing = connection.get_execution_options().get("writing")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


@contextmanager
def nothing(metadata: sa.MetaData) -> Iterator[sa.Connection]:
    import sqlalchemy as sa

    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        metadata.create_all(connection)
        yield connection
    engine.dispose()
