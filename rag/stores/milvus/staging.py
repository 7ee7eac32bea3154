"""The writer's side: records of the coming generation, and their vectors' way into Milvus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zlib import crc32

from rag.stores.milvus.generations import prune, record
from rag.stores.milvus.graves import Graves, delete_documents
from rag.stores.milvus.known import StoredDocuments
from rag.stores.milvus.outbox import Outbox
from rag.stores.milvus.records import Records, batches, recorded
from rag.stores.milvus.rows import columns_of, columns_of_chunk, text_digest
from rag.stores.milvus.vectors import Milvus
from rag.types import Chunk, Document, Fingerprint, Known

if TYPE_CHECKING:
    import sqlalchemy as sa

    from rag.types import Matrix, Vector

_AT_ONCE = 500


class Staging:
    """One writer's changes; a `StoreWriter`.

    Every row is in the application database before it is in Milvus, and is noted as dead there
    before it goes from it, so whatever dies in between, the next writer knows what to send or
    delete. All rows hold vectors of one fingerprint. `replacing` builds the knowledge base anew.
    `keep` is how many generations before the published one can be brought back.
    """

    def __init__(
        self,
        records: Records,
        milvus: Milvus,
        fingerprint: Fingerprint,
        *,
        replacing: bool = False,
        keep: int = 0,
    ) -> None:
        self._records = records
        self._part, self._tables = records.part, records.tables
        self._base = records.base
        self._fingerprint = recorded(fingerprint)
        self._collection = records.collection(self._fingerprint)
        self._replacing = replacing
        self._keep = keep
        self._published = records.generation()
        self.target = self._published + 1
        self._graves = Graves(records, milvus)
        self._outbox = Outbox(
            records, milvus, self._graves, self._collection, fingerprint.dimension
        )
        self.purge()
        with self._part.writing() as connection:
            self._take_over(connection)

    # --- what an earlier writer left ------------------------------------------------------------

    def _take_over(self, connection: sa.Connection) -> None:
        """The last writer may have died: its additions are kept if their vectors are of use, its
        removals are decided anew."""
        import sqlalchemy as sa

        bases, d = self._tables.bases, self._tables.documents
        (staged,) = self._records.row("staged_fingerprint")
        if staged != self._fingerprint:
            wanted = sa.select(d.c.key).where(d.c.base == self._base, d.c.added_in == self.target)
            keys = list(connection.execute(wanted).scalars())
            delete_documents(connection, self._records, keys)
            connection.execute(
                bases.update()
                .where(bases.c.id == self._base)
                .values(staged_fingerprint=self._fingerprint)
            )
        connection.execute(
            d.update()
            .where(d.c.base == self._base, d.c.removed_in == self.target)
            .values(removed_in=None)
        )
        again = sa.select(d.c.uri).where(d.c.base == self._base, d.c.added_in == self.target)
        connection.execute(
            d.update()
            .where(d.c.base == self._base, d.c.added_in < self.target, d.c.removed_in.is_(None))
            .where(d.c.uri.in_(again))
            .values(removed_in=self.target)
        )

    # --- what is there --------------------------------------------------------------------------

    def known(self) -> Known:
        d = self._tables.documents
        return StoredDocuments(
            self._records,
            lambda: (
                (d.c.base == self._base) & d.c.removed_in.is_(None) & (d.c.added_in >= self._oldest)
            ),
        )

    @property
    def _oldest(self) -> int:
        """The first generation whose rows hold vectors of our fingerprint, as far as we care."""
        return self.target if self._replacing else 0

    def vectors(self, texts: Sequence[str]) -> Mapping[str, Vector]:
        chunks = self._chunks_of(texts)
        found = self._outbox.vectors(list(chunks.values()))
        return {text: found[i] for text, i in chunks.items() if i in found}

    def _chunks_of(self, texts: Sequence[str]) -> dict[str, int]:
        """A stored chunk with vectors of our fingerprint for each of the texts that has one."""
        import sqlalchemy as sa

        c, d = self._tables.chunks, self._tables.documents
        by_hash = {text_digest(text): text for text in texts}
        wanted = (
            sa.select(c.c.text_hash, c.c.id)
            .join(d, d.c.key == c.c.document_key)
            .where(d.c.base == self._base, d.c.added_in >= self._oldest)
            .where(d.c.collection == self._collection)
        )
        found: dict[str, int] = {}
        with self._part.reading() as connection:
            for some in batches(by_hash, _AT_ONCE):
                for digest, chunk_id in connection.execute(wanted.where(c.c.text_hash.in_(some))):
                    found.setdefault(by_hash[bytes(digest)], int(chunk_id))
        return found

    # --- changes --------------------------------------------------------------------------------

    def put(self, document: Document, chunks: Sequence[Chunk], vectors: Matrix) -> None:
        with self._part.writing() as connection:
            self._discard(connection, document.uri)
            documents = self._tables.documents
            row = {
                **columns_of(document),
                "base": self._base,
                "chunks": len(chunks),
                "collection": self._collection,
                "added_in": self.target,
                "updated_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            insert = documents.insert().values(row).returning(documents.c.key)
            key = int(connection.execute(insert).scalar_one())
            if chunks:
                self._put_chunks(connection, key, chunks, vectors)
        self._outbox.add(len(chunks))

    def _put_chunks(
        self, connection: sa.Connection, key: int, chunks: Sequence[Chunk], vectors: Matrix
    ) -> None:
        c = self._tables.chunks
        blobs = [vector.astype("<f4").tobytes() for vector in vectors]
        rows = [
            {
                **columns_of_chunk(chunk),
                "document_key": key,
                "text_hash": text_digest(chunk.embedded_text),
                "crc": crc32(blob),
            }
            for chunk, blob in zip(chunks, blobs, strict=True)
        ]
        ids = connection.execute(c.insert().returning(c.c.id, sort_by_parameter_order=True), rows)
        connection.execute(
            self._tables.waiting.insert(),
            [
                {
                    "chunk_id": chunk_id,
                    "base": self._base,
                    "document_key": key,
                    "added_in": self.target,
                    "vector": blob,
                }
                for chunk_id, blob in zip(ids.scalars(), blobs, strict=True)
            ],
        )

    def remove(self, uri: str) -> None:
        with self._part.writing() as connection:
            self._discard(connection, uri)

    def _discard(self, connection: sa.Connection, uri: str) -> None:
        """Staged rows go at once; published ones are marked, because readers still see them."""
        import sqlalchemy as sa

        d = self._tables.documents
        ours = sa.and_(d.c.base == self._base, d.c.uri == uri)
        staged = sa.select(d.c.key).where(ours, d.c.added_in == self.target)
        keys = list(connection.execute(staged).scalars())
        delete_documents(connection, self._records, keys)
        connection.execute(
            d.update().where(ours, d.c.removed_in.is_(None)).values(removed_in=self.target)
        )

    # --- publishing -----------------------------------------------------------------------------

    def publish(self) -> int:
        import sqlalchemy as sa

        d = self._tables.documents
        if self._replacing:
            self._remove_all_published()
        mine = d.c.base == self._base
        changed = sa.select(d.c.key).where(
            mine, sa.or_(d.c.added_in == self.target, d.c.removed_in == self.target)
        )
        with self._part.reading() as connection:
            if connection.execute(changed.limit(1)).first() is None:
                return self._published
        guarantee = self._outbox.settle()
        with self._part.writing() as connection:
            record(connection, self._records, self.target, self._fingerprint, guarantee=guarantee)
        self._published, self.target = self.target, self.target + 1
        return self._published

    def _remove_all_published(self) -> None:
        d = self._tables.documents
        with self._part.writing() as connection:
            connection.execute(
                d.update()
                .where(d.c.base == self._base, d.c.removed_in.is_(None))
                .where(d.c.added_in < self.target)
                .values(removed_in=self.target)
            )

    def purge(self) -> None:
        """Deletes what no kept generation shows any more.

        Readers that have not moved on yet find it gone and move on then.
        """
        prune(self._records, self._graves, self._keep, writes_to=self._collection)
