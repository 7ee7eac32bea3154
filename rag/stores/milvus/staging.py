"""The writer's side: records of the coming generation, and their vectors' way into Milvus."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rag.stores.milvus.outbox import Outbox
from rag.stores.milvus.records import Records, batches, recorded
from rag.stores.milvus.rows import columns_of, columns_of_chunk
from rag.stores.milvus.vectors import Milvus
from rag.types import Chunk, Document, DocumentInfo, Fingerprint

if TYPE_CHECKING:
    import sqlalchemy as sa

    from rag.types import Matrix, Vector

_AT_ONCE = 500


class Staging:
    """One writer's changes; a `StoreWriter`.

    Every row is in the application database before it is in Milvus, and is noted as dead there
    before it goes from it, so whatever dies in between, the next writer knows what to send or
    delete. All rows hold vectors of one fingerprint. `replacing` builds the knowledge base anew.
    """

    def __init__(
        self, records: Records, milvus: Milvus, fingerprint: Fingerprint, *, replacing: bool
    ) -> None:
        self._records = records
        self._part, self._tables = records.part, records.tables
        self._base = records.base
        self._fingerprint = recorded(fingerprint)
        self._collection = records.collection(self._fingerprint)
        self._replacing = replacing
        self._published = records.generation()
        self.target = self._published + 1
        self._outbox = Outbox(records, milvus, self._collection, fingerprint.dimension)
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
            self._delete(connection, keys, self._records.collection(staged or ""))
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

    def known(self) -> Mapping[str, DocumentInfo]:
        d = self._tables.documents
        infos = self._records.infos(
            (d.c.base == self._base) & d.c.removed_in.is_(None) & (d.c.added_in >= self._oldest)
        )
        return {info.uri: info for info in infos}

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
        by_hash = {_hash(text): text for text in texts}
        wanted = (
            sa.select(c.c.text_hash, c.c.id)
            .join(d, d.c.key == c.c.document_key)
            .where(d.c.base == self._base, d.c.added_in >= self._oldest)
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
        rows = [
            {
                **columns_of_chunk(chunk),
                "document_key": key,
                "text_hash": _hash(chunk.embedded_text),
            }
            for chunk in chunks
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
                    "vector": vector.astype("<f4").tobytes(),
                }
                for chunk_id, vector in zip(ids.scalars(), vectors, strict=True)
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
        self._delete(connection, keys, self._collection)
        connection.execute(
            d.update().where(ours, d.c.removed_in.is_(None)).values(removed_in=self.target)
        )

    def _delete(
        self, connection: sa.Connection, keys: Sequence[int], collection: str | None
    ) -> None:
        """Documents with all that belongs to them; their rows in a collection are noted as dead."""
        import sqlalchemy as sa

        t = self._tables
        for some in batches(keys, _AT_ONCE):
            if collection is not None:
                chunks = sa.select(
                    t.chunks.c.id, sa.literal(self._base), sa.literal(collection)
                ).where(t.chunks.c.document_key.in_(some))
                connection.execute(
                    t.dead.insert().from_select(["chunk_id", "base", "collection"], chunks)
                )
            connection.execute(t.waiting.delete().where(t.waiting.c.document_key.in_(some)))
            connection.execute(t.chunks.delete().where(t.chunks.c.document_key.in_(some)))
            connection.execute(t.documents.delete().where(t.documents.c.key.in_(some)))

    # --- publishing -----------------------------------------------------------------------------

    def publish(self) -> int:
        import sqlalchemy as sa

        bases, d, t = self._tables.bases, self._tables.documents, self._tables
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
        (before, since) = self._records.row("fingerprint", "vectors_since")
        gone = (
            sa.select(t.chunks.c.id, sa.literal(self._base), sa.literal(self.target))
            .join(d, d.c.key == t.chunks.c.document_key)
            .where(mine, d.c.removed_in == self.target)
        )
        with self._part.writing() as connection:
            connection.execute(
                t.removed.insert().from_select(["chunk_id", "base", "generation"], gone)
            )
            connection.execute(
                t.generations.insert().values(
                    base=self._base, generation=self.target, mark=secrets.token_hex(8)
                )
            )
            connection.execute(
                bases.update()
                .where(bases.c.id == self._base)
                .values(
                    generation=self.target,
                    fingerprint=self._fingerprint,
                    vectors_since=since if before == self._fingerprint else self.target,
                    guarantee=guarantee,
                )
            )
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
        """Deletes what no published generation shows any more.

        Readers that have not moved on yet find it gone and move on then.
        """
        import sqlalchemy as sa

        bases, d = self._tables.bases, self._tables.documents
        fingerprint, since = self._records.row("fingerprint", "vectors_since")
        current = self._records.collection(fingerprint or "")
        wanted = sa.select(d.c.key, d.c.added_in >= since).where(
            d.c.base == self._base, d.c.removed_in <= self._published
        )
        with self._part.reading() as connection:
            gone = connection.execute(wanted).all()
        if gone:
            with self._part.writing() as connection:
                connection.execute(
                    bases.update().where(bases.c.id == self._base).values(purged=self._published)
                )
        if not all(is_in_current for _, is_in_current in gone):
            self._outbox.drop_others(current)
        for is_in_current in (True, False):
            keys = [key for key, its in gone if bool(its) is is_in_current]
            for some in batches(keys, _AT_ONCE):
                with self._part.writing() as connection:
                    self._delete(connection, some, current if is_in_current else None)
        self._outbox.bury()


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
