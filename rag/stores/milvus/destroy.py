"""Deleting a whole knowledge base, so that nothing of it stays behind whoever dies meanwhile.

In one step it is nobody's any more, under a name that no knowledge base can have; what is left of
it then goes from Milvus, from this machine and from the records, there in the end.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from rag.stores.milvus.base import DOOMED, batches, collection_prefix
from rag.stores.milvus.graves import delete_documents
from rag.stores.milvus.records import Records
from rag.stores.milvus.vectors import Milvus

_AT_ONCE = 200


def doom(records: Records) -> None:
    """From now on there is no such knowledge base; another one may get its name."""
    bases = records.tables.bases
    with records.part.writing() as connection:
        connection.execute(
            bases.update()
            .where(bases.c.id == records.base)
            .values(name=f"{DOOMED}{records.identity}")
        )
    records.follow()


def clear_remains(records: Records, milvus: Milvus, folder: Path) -> None:
    """Of all knowledge bases that were being deleted, here or by a process that died."""
    import sqlalchemy as sa

    bases = records.tables.bases
    wanted = sa.select(bases.c.id, bases.c.identity).where(bases.c.name.startswith(DOOMED))
    with records.part.reading() as connection:
        doomed = connection.execute(wanted).all()
    for row in doomed:
        for name in milvus.names(collection_prefix(row.identity)):
            milvus.drop(name)
        shutil.rmtree(folder / row.identity, ignore_errors=True)
        _forget(records, int(row.id))


def _forget(records: Records, base: int) -> None:
    import sqlalchemy as sa

    t = records.tables
    with records.part.reading() as connection:
        wanted = sa.select(t.documents.c.key).where(t.documents.c.base == base)
        keys: Sequence[int] = list(connection.execute(wanted).scalars())
    for some in batches(keys, _AT_ONCE):
        with records.part.writing() as connection:
            delete_documents(connection, records, some, in_milvus=False)
    with records.part.writing() as connection:
        for table in (t.dead, t.removed, t.generations, t.collections):
            connection.execute(table.delete().where(table.c.base == base))
        connection.execute(t.bases.delete().where(t.bases.c.id == base))
