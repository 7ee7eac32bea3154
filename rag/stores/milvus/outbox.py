"""Vectors on their way into Milvus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rag.stores.milvus.graves import Graves
from rag.stores.milvus.records import Records, batches
from rag.stores.milvus.vectors import Milvus, Rows

if TYPE_CHECKING:
    from rag.types import Vector

_INSERT = 2000  # rows sent to Milvus at once
_AT_ONCE = 500


class Outbox:
    """What one writer's collection is to get.

    It is all in the application database, so whatever dies, the next writer goes on with it.
    """

    def __init__(
        self, records: Records, milvus: Milvus, graves: Graves, collection: str, dimension: int
    ) -> None:
        self._records = records
        self._part, self._tables = records.part, records.tables
        self._base = records.base
        self._milvus = milvus
        self._graves = graves
        self._collection = collection
        self._dimension = dimension
        self._is_ready = False  # the collection
        self._unsent = self._count_waiting()
        self._sent_before = self._newest_chunk()  # up to here Milvus may have what waits

    def add(self, chunks: int) -> None:
        """So many vectors more wait; sends them when they are worth it."""
        self._unsent += chunks
        if self._unsent >= _INSERT:
            self.send()

    def ready(self) -> None:
        """The collection is there, and holds nothing of ids still to be given: an application
        database that lost its last moments in a power cut gives them a second time."""
        if not self._is_ready:
            self._graves.note(self._collection)
            self._milvus.ensure(self._collection, self._dimension)
            self._milvus.delete_beyond(self._collection, self._newest_chunk())
            self._is_ready = True

    def send(self) -> None:
        """All vectors that wait, to Milvus."""
        import numpy as np
        import sqlalchemy as sa

        w, c = self._tables.waiting, self._tables.chunks
        wanted = (
            sa.select(
                *(w.c.chunk_id, w.c.document_key, w.c.added_in, w.c.vector),
                *(c.c.context, c.c.text),
            )
            .join(c, c.c.id == w.c.chunk_id)
            .where(w.c.base == self._base)
            .order_by(w.c.chunk_id)
            .limit(_INSERT)
        )
        while True:
            with self._part.reading() as connection:
                found = connection.execute(wanted).all()
            if not found:
                break
            self.ready()
            ids, documents, added_in, blobs, contexts, texts = zip(*found, strict=True)
            matrix = np.frombuffer(b"".join(blobs), dtype="<f4").reshape(len(ids), -1)
            again = ids[0] <= self._sent_before
            self._sent_before = max(self._sent_before, ids[-1])  # if this fails: who knows
            whole = [f"{context}\n{text}" for context, text in zip(contexts, texts, strict=True)]
            self._milvus.insert(
                self._collection, Rows(ids, documents, added_in, matrix, whole), again=again
            )
            with self._part.writing() as connection:
                connection.execute(
                    w.delete().where(w.c.base == self._base, w.c.chunk_id.between(ids[0], ids[-1]))
                )
        self._unsent = 0

    def settle(self) -> int:
        """Sends and deletes all there is; the time, by Milvus's clock, when all of it is done."""
        self.send()
        self._graves.bury()
        self.ready()
        return self._milvus.settle(self._collection)

    def vectors(self, chunk_ids: Sequence[int]) -> dict[int, Vector]:
        """Those that are stored, here or there."""
        found = self._waiting_vectors(chunk_ids)
        elsewhere = [i for i in chunk_ids if i not in found]
        if elsewhere:
            self.ready()
            found |= self._milvus.vectors(self._collection, elsewhere, 0)
        return found

    def _waiting_vectors(self, chunk_ids: Sequence[int]) -> dict[int, Vector]:
        import numpy as np
        import sqlalchemy as sa

        w = self._tables.waiting
        found: dict[int, Vector] = {}
        with self._part.reading() as connection:
            for some in batches(chunk_ids, _AT_ONCE):
                wanted = sa.select(w.c.chunk_id, w.c.vector).where(w.c.chunk_id.in_(some))
                for chunk_id, blob in connection.execute(wanted):
                    found[int(chunk_id)] = np.frombuffer(blob, dtype="<f4")
        return found

    def _count_waiting(self) -> int:
        import sqlalchemy as sa

        w = self._tables.waiting
        wanted = sa.select(sa.func.count()).where(w.c.base == self._base)
        with self._part.reading() as connection:
            return int(connection.execute(wanted).scalar_one())

    def _newest_chunk(self) -> int:
        import sqlalchemy as sa

        wanted = sa.select(sa.func.max(self._tables.chunks.c.id))
        with self._part.reading() as connection:
            return int(connection.execute(wanted).scalar_one() or 0)
