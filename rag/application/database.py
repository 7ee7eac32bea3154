"""The way to the application database, and to the tables of one part of the program."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Generic, TypeVar

from rag.application.backend import Backend, Transaction
from rag.application.explain import explained
from rag.application.postgres import Postgres
from rag.application.sqlite import Sqlite, nothing
from rag.errors import ConfigError

if TYPE_CHECKING:
    import sqlalchemy as sa

T = TypeVar("T")

_BACKENDS: dict[str, Callable[[str, float], Backend]] = {
    "sqlite": Sqlite,
    "postgresql": Postgres,
    "postgresql+psycopg": Postgres,
}


class ApplicationDatabase:
    """Safe to use from several threads, and to share with other processes.

    `url` is SQLAlchemy's: sqlite:///path or postgresql+psycopg://... Nothing is opened, made or
    imported before the first use. Who would wait longer than `busy_seconds` for others gets
    BusyError. Raises ConfigError for any other database.
    """

    def __init__(self, url: str, *, busy_seconds: float = 5.0) -> None:
        scheme = url.partition(":")[0]
        if scheme not in _BACKENDS:  # the address may hold a password, so no error shows it
            raise ConfigError(
                "The application database must be SQLite or PostgreSQL.",
                "Give its address as sqlite:///path or postgresql+psycopg://user@host/name.",
            )
        self._open = partial(_BACKENDS[scheme], url, busy_seconds)
        self._opened: Backend | None = None
        self._guard = threading.Lock()

    @property
    def has_one_writer(self) -> bool:
        """Whether a writing transaction keeps all others out, so that no row need be locked."""
        return self.backend.has_one_writer

    def part(self, declare: Callable[[sa.MetaData], T]) -> Part[T]:
        """`declare` puts a part's tables into the metadata; what it returns is `Part.tables`."""
        return Part(self, declare)

    def close(self) -> None:
        """Gives the connections back. Who comes later all the same gets new ones."""
        with self._guard:
            if self._opened is not None:
                self._opened.close()

    @property
    def backend(self) -> Backend:
        with self._guard:
            if self._opened is None:
                with explained():
                    self._opened = self._open()
            return self._opened


class Part(Generic[T]):
    """What one part of the program keeps in the application database.

    A transaction ends with its block and is undone by any error. A writing one must not be begun
    within another. Both raise StoreError for what the database cannot do, BusyError if others
    block it.
    """

    def __init__(self, database: ApplicationDatabase, declare: Callable[[sa.MetaData], T]) -> None:
        self._database = database
        self._declare = declare
        self._are_there = False

    @property
    def tables(self) -> T:
        return self._declared[1]

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Where there is no SQLite file yet none is made: its tables are empty."""
        backend = self._database.backend
        with explained():
            if not self._are_there and backend.is_absent():
                transaction: Transaction = nothing(self._declared[0])
            else:
                self._create_tables(backend)
                transaction = backend.reading()
            with transaction as connection:
                yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        backend = self._database.backend
        with explained():
            self._create_tables(backend)
            with backend.writing() as connection:
                yield connection

    @cached_property
    def _declared(self) -> tuple[sa.MetaData, T]:
        import sqlalchemy as sa

        metadata = sa.MetaData()
        return metadata, self._declare(metadata)

    def _create_tables(self, backend: Backend) -> None:
        if not self._are_there:
            backend.create(self._declared[0])
            self._are_there = True
