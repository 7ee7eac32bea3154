"""What a knowledge base in Milvus must fulfil, document by document, and row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rag.stores.milvus.base import as_fingerprint, batches
from rag.stores.milvus.contents import chunk_rows, document_rows, key_batches
from rag.stores.milvus.records import Records
from rag.stores.milvus.rows import text_digest
from rag.stores.milvus.vectors import Milvus
from rag.stores.soundness import BadVector, Examined, row_faults, vector_fault
from rag.types import Fingerprint

if TYPE_CHECKING:
    from rag.types import Vector

_WINDOW = 10_000  # ids
_LAST = 2**62
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Rows:
    """A document of the records, with its chunks and the vectors that were found for them."""

    examined: Examined
    document: Any
    chunks: Sequence[Any]
    in_milvus: int  # of its chunks


class Soundness:
    """Looks through all there is: published, kept, staged."""

    def __init__(self, records: Records, milvus: Milvus) -> None:
        self._records = records
        self._milvus = milvus

    @cached_property
    def collections(self) -> frozenset[str]:
        """Those of this knowledge base that Milvus has."""
        return frozenset(self._milvus.names(self._records.prefix))

    @cached_property
    def fingerprints(self) -> Mapping[str, Fingerprint]:
        """By collection."""
        import sqlalchemy as sa

        g, base = self._records.tables.generations, self._records.base
        with self._records.part.reading() as connection:
            wanted = sa.select(g.c.fingerprint).where(g.c.base == base).distinct()
            recorded = set(connection.execute(wanted).scalars())
        recorded.update(self._records.row("fingerprint", "staged_fingerprint"))
        return {self._records.collection(f): as_fingerprint(f) for f in recorded if f}

    def documents(self, generation: int) -> Iterator[Rows]:
        """All document rows by rising key; those that `generation` shows are the visible ones."""
        import sqlalchemy as sa

        d = self._records.tables.documents
        seen: set[str] = set()
        for keys in key_batches(self._records, d.c.base == self._records.base):
            with self._records.part.reading() as connection:
                wanted = sa.select(d.c.key).where(d.c.key.in_(keys))
                wanted = wanted.where(self._records.visible(generation))
                visible = set(connection.execute(wanted).scalars())
            for rows in self._batch(keys, visible, seen):
                is_sound = not (rows.examined.faults or rows.examined.bad_vectors)
                if is_sound or self._is_there(rows.examined.key):
                    yield rows

    def _batch(self, keys: Sequence[int], visible: set[int], seen: set[str]) -> Iterator[Rows]:
        """`seen` are uris of visible documents of the batches before; it gets those of this one."""
        chunks: dict[int, list[Any]] = {key: [] for key in keys}
        for row in chunk_rows(self._records, keys):
            chunks[row.document_key].append(row)
        documents = document_rows(self._records, keys)
        stored, waiting = self._vectors(documents, chunks)
        vectors = stored | waiting
        for row in documents:
            mine = chunks[row.key]
            faults = list(row_faults(row.text, row.chunks, _tuples(mine), text_digest))
            if row.key in visible:
                faults += self._visible_faults(row, seen)
                seen.add(row.uri)
            fingerprint = self.fingerprints.get(row.collection)
            examined = Examined(
                row.key,
                row.name,
                row.uri,
                row.key in visible,
                tuple(chunk.id for chunk in mine),
                tuple(faults),
                tuple(_bad_vectors(mine, vectors, fingerprint)),
            )
            yield Rows(examined, row, mine, sum(chunk.id in stored for chunk in mine))

    def _visible_faults(self, row: Any, seen: set[str]) -> Iterator[tuple[None, str]]:
        if row.uri in seen:
            yield None, "is there twice"
        if self.fingerprints.get(row.collection) != self._published:
            yield None, "has vectors of another model than the knowledge base"

    @cached_property
    def _published(self) -> Fingerprint | None:
        return self._records.state().fingerprint

    def _is_there(self, key: int) -> bool:
        """Or a writer has deleted it while it was looked at."""
        return bool(document_rows(self._records, [key]))

    def _vectors(
        self, documents: Sequence[Any], chunks: Mapping[int, Sequence[Any]]
    ) -> tuple[dict[int, Vector], dict[int, Vector]]:
        """In Milvus, and on the way there."""
        import numpy as np
        import sqlalchemy as sa

        waiting: dict[int, Vector] = {}  # first, as a writer may be sending them
        w = self._records.tables.waiting
        with self._records.part.reading() as connection:
            for some in batches(chunks, _AT_ONCE):
                wanted = sa.select(w.c.chunk_id, w.c.vector).where(w.c.document_key.in_(some))
                for chunk_id, blob in connection.execute(wanted):
                    waiting[int(chunk_id)] = np.frombuffer(blob, dtype="<f4")
        stored: dict[int, Vector] = {}
        for name in {row.collection for row in documents} & self.collections:
            ids = [c.id for row in documents if row.collection == name for c in chunks[row.key]]
            stored |= self._milvus.vectors(name, ids, 0)
        return stored, waiting

    def leftovers(self, collection: str) -> list[int]:
        """Rows of a collection of Milvus that the records do not know of: not even as dead."""
        newest = self._newest_chunk()
        unknown: list[int] = []
        for first in range(0, newest + 1, _WINDOW):
            last = min(first + _WINDOW - 1, newest)
            unknown += self._unknown(self._milvus.ids(collection, first, last), collection)
        unknown += self._unknown(self._milvus.ids(collection, newest + 1, _LAST), collection)
        # A writer may just have buried some.
        return sorted(self._milvus.present(collection, unknown)) if unknown else []

    def _unknown(self, ids: Sequence[int], collection: str) -> list[int]:
        import sqlalchemy as sa

        t = self._records.tables
        known: set[int] = set()
        with self._records.part.reading() as connection:
            for some in batches(ids, _AT_ONCE):
                dead = sa.select(t.dead.c.chunk_id).where(t.dead.c.chunk_id.in_(some))
                known.update(connection.execute(dead).scalars())
                held = (
                    sa.select(t.chunks.c.id)
                    .join(t.documents, t.documents.c.key == t.chunks.c.document_key)
                    .where(t.chunks.c.id.in_(some), t.documents.c.collection == collection)
                )
                known.update(connection.execute(held).scalars())
        return [i for i in ids if i not in known]

    def _newest_chunk(self) -> int:
        import sqlalchemy as sa

        with self._records.part.reading() as connection:
            newest = connection.execute(sa.select(sa.func.max(self._records.tables.chunks.c.id)))
            return int(newest.scalar_one() or 0)


def _tuples(chunks: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [
        (c.id, c.ordinal, c.start, c.end, c.text, c.context, bytes(c.text_hash)) for c in chunks
    ]


def _bad_vectors(
    chunks: Sequence[Any], vectors: Mapping[int, Vector], fingerprint: Fingerprint | None
) -> Iterator[BadVector]:
    if fingerprint is None:
        return
    for chunk in chunks:
        vector = vectors.get(chunk.id)
        blob = None if vector is None else vector.astype("<f4").tobytes()
        why = vector_fault(blob, chunk.crc, fingerprint)
        if why:
            yield BadVector(chunk.id, chunk.ordinal, why)
