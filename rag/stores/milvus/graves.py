"""What has to go from Milvus: rows of documents that are deleted, collections nothing is in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rag.stores.milvus.records import Records, batches
from rag.stores.milvus.vectors import Milvus

if TYPE_CHECKING:
    import sqlalchemy as sa

_BURY = 10_000
_AT_ONCE = 500


def delete_documents(
    connection: sa.Connection, records: Records, keys: Sequence[int], *, in_milvus: bool = True
) -> int:
    """Deletes documents with all that belongs to them, within the caller's transaction; counts
    chunks. Their rows in Milvus are noted as dead, unless their collection goes as a whole."""
    import sqlalchemy as sa

    t, deleted = records.tables, 0
    for some in batches(keys, _AT_ONCE):
        if in_milvus:
            chunks = (
                sa.select(t.chunks.c.id, t.documents.c.base, t.documents.c.collection)
                .join(t.documents, t.documents.c.key == t.chunks.c.document_key)
                .where(t.documents.c.key.in_(some))
            )
            connection.execute(
                t.dead.insert().from_select(["chunk_id", "base", "collection"], chunks)
            )
        connection.execute(t.waiting.delete().where(t.waiting.c.document_key.in_(some)))
        of_chunks = t.chunks.delete().where(t.chunks.c.document_key.in_(some))
        deleted += connection.execute(of_chunks).rowcount
        before = t.shown_before
        connection.execute(before.delete().where(before.c.document_key.in_(some)))
        connection.execute(t.documents.delete().where(t.documents.c.key.in_(some)))
    return deleted


class Graves:
    """It is all noted in the application database, so whatever dies, the next goes on with it."""

    def __init__(self, records: Records, milvus: Milvus) -> None:
        self._records = records
        self._milvus = milvus

    def bury(self) -> None:
        """Deletes the dead from Milvus."""
        import sqlalchemy as sa

        dead = self._records.tables.dead
        wanted = (
            sa.select(dead.c.chunk_id, dead.c.collection)
            .where(dead.c.base == self._records.base)
            .order_by(dead.c.collection)
            .limit(_BURY)
        )
        while True:
            with self._records.part.reading() as connection:
                found = connection.execute(wanted).all()
            if not found:
                return
            name = found[0].collection
            ids = [row.chunk_id for row in found if row.collection == name]
            self._milvus.delete(name, ids)
            with self._records.part.writing() as connection:
                for some in batches(ids, _AT_ONCE):
                    connection.execute(dead.delete().where(dead.c.chunk_id.in_(some)))

    def note(self, collection: str) -> None:
        """Before it is made: what is not noted is never dropped."""
        import sqlalchemy as sa

        note = sa.text(
            "INSERT INTO store_collections (name, base) VALUES (:name, :base)"
            " ON CONFLICT DO NOTHING"
        )
        with self._records.part.writing() as connection:
            connection.execute(note, {"name": collection, "base": self._records.base})

    def drop_unneeded(self, writes_to: str = "") -> set[str]:
        """Drops the collections that no kept generation shows, nothing is staged in, and that are
        not `writes_to`; their names."""
        import sqlalchemy as sa

        collections = self._records.tables.collections
        wanted = sa.select(collections.c.name).where(collections.c.base == self._records.base)
        with self._records.part.reading() as connection:
            noted = set(connection.execute(wanted).scalars())
            unneeded = noted - self._needed(connection) - {writes_to} if len(noted) > 1 else set()
        for name in unneeded:
            self._milvus.drop(name)
            with self._records.part.writing() as connection:
                # What died with it needs no grave of its own.
                dead = self._records.tables.dead
                connection.execute(dead.delete().where(dead.c.collection == name))
                connection.execute(collections.delete().where(collections.c.name == name))
        return unneeded

    def _needed(self, connection: sa.Connection) -> set[str]:
        import sqlalchemy as sa

        records = self._records
        bases, g, d = records.tables.bases, records.tables.generations, records.tables.documents
        kept = connection.execute(
            sa.select(g.c.fingerprint).where(g.c.base == records.base, g.c.is_kept == 1)
        )
        needed = {records.collection(fingerprint) for fingerprint in kept.scalars()}
        newest = sa.select(bases.c.generation).where(bases.c.id == records.base).scalar_subquery()
        staged = sa.select(d.c.collection).where(d.c.base == records.base, d.c.added_in > newest)
        return needed | set(connection.execute(staged.distinct()).scalars())
