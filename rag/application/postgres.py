"""The application database in PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rag.application.backend import Transaction, has_tables
from rag.errors import ConfigError

if TYPE_CHECKING:
    import sqlalchemy as sa

_STATEMENT_SECONDS = 30  # PostgreSQL's limit for each
_CREATING = 0x7261675F617070  # "rag_app": who holds this lock of PostgreSQL creates tables


class Postgres:
    """Nobody waits for ever: not for the server, nor for a lock or a statement."""

    has_one_writer = False

    def __init__(self, url: str, busy_seconds: float) -> None:
        import sqlalchemy as sa

        def set_up(connection: Any, _: object) -> None:
            connection.autocommit = True  # else the limits would be undone with a transaction
            connection.execute(f"SET lock_timeout = {int(busy_seconds * 1000)}")
            connection.execute(f"SET statement_timeout = {_STATEMENT_SECONDS * 1000}")
            connection.autocommit = False

        self._sa = sa
        try:
            self._engine = sa.create_engine(
                sa.make_url(url).set(drivername="postgresql+psycopg"),
                connect_args={"connect_timeout": max(2, int(busy_seconds))},
                pool_pre_ping=True,
                hide_parameters=True,
            )
        except ModuleNotFoundError:
            raise ConfigError(
                "The driver for PostgreSQL is not installed.", "pip install 'rag-server[postgres]'"
            ) from None
        sa.event.listen(self._engine, "connect", set_up)

    def is_absent(self) -> bool:
        return False

    def create(self, metadata: sa.MetaData) -> None:
        if has_tables(self._engine, metadata):
            return
        with self._engine.begin() as connection:
            lock = self._sa.func.pg_advisory_xact_lock(_CREATING)
            connection.execute(self._sa.select(lock))
            metadata.create_all(connection)

    def reading(self) -> Transaction:
        return self._engine.begin()

    writing = reading

    def close(self) -> None:
        self._engine.dispose()
