"""What a kind of database has to do."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import sqlalchemy as sa

Transaction = AbstractContextManager["sa.Connection"]


class Backend(Protocol):
    """A kind of database. `has_one_writer` where a writing transaction keeps all others out."""

    has_one_writer: bool

    def is_absent(self) -> bool:
        """Whether nothing was ever written, and reading would make a file."""
        ...

    def create(self, metadata: sa.MetaData) -> None:
        """Makes the tables that are missing; several processes may want that at once."""
        ...

    def reading(self) -> Transaction: ...

    def writing(self) -> Transaction: ...

    def close(self) -> None: ...


def has_tables(engine: sa.Engine, metadata: sa.MetaData) -> bool:
    import sqlalchemy as sa

    with engine.begin() as connection:
        return metadata.tables.keys() <= set(sa.inspect(connection).get_table_names())
