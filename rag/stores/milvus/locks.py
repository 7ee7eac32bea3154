"""One writer at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rag.application import ApplicationDatabase
from rag.errors import BusyError
from rag.stores.files import exclusive, make_folder
from rag.stores.milvus.records import Records
from rag.stores.searching import TRIES

if TYPE_CHECKING:
    import sqlalchemy as sa

_LOCKS = 0x7261675F  # "rag_": PostgreSQL's locks of writers, one for each knowledge base


@contextmanager
def alone(folder: Path, records: Records, database: ApplicationDatabase) -> Iterator[None]:
    """Holds the lock of the knowledge base, which is made if there is none.

    One writer on this machine; with PostgreSQL, one of all machines. Raises BusyError.
    """
    for _ in range(TRIES):
        base = records.make()
        with ExitStack() as held:
            lock = make_folder(folder / records.identity) / "write.lock"
            held.enter_context(exclusive(lock, "writing to this knowledge base"))
            if not database.has_one_writer:
                _lock_out_others(held.enter_context(records.part.reading()), base)
            if records.follow() == base:  # else it was deleted before we had the lock
                yield
                return
    raise BusyError("The knowledge base is being deleted again and again.", "Try again.")


def _lock_out_others(connection: sa.Connection, base: int) -> None:
    """For as long as this transaction of PostgreSQL lasts."""
    import sqlalchemy as sa

    taken = sa.func.pg_try_advisory_xact_lock(_LOCKS, base)
    if not connection.execute(sa.select(taken)).scalar_one():
        raise BusyError(
            "A process on another machine is writing to this knowledge base.",
            "Try again when it has finished.",
        )
