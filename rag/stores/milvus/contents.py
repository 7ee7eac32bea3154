"""A knowledge base in Milvus as a whole, read in batches of documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rag.errors import BusyError, DamagedStoreError
from rag.stores.contents import Contents
from rag.stores.milvus.explain import MissingCollectionError
from rag.stores.milvus.records import Records, State, batches, recorded
from rag.stores.milvus.rows import chunk_of, document_of
from rag.stores.milvus.vectors import Milvus
from rag.types import Chunk

if TYPE_CHECKING:
    from rag.stores.contents import Row
    from rag.types import Matrix

_CHUNKS = 2_000  # held at once, or those of one document
_DOCUMENTS = 500  # asked about at once


def contents_of(records: Records, milvus: Milvus) -> Contents:
    """All that is published now; readers and a writer go on meanwhile.

    Its rows raise BusyError if a writer deletes them before they are read: none does while the
    generation is kept. They raise DamagedStoreError for a vector that Milvus does not have.
    """
    state = records.state()
    documents, chunks = records.counts(state.generation)
    rows = _rows(records, milvus, state)
    return Contents(state.generation, state.fingerprint, documents, chunks, rows)


def _rows(records: Records, milvus: Milvus, state: State) -> Iterator[Row]:
    if state.fingerprint is None:
        return
    collection = records.collection(recorded(state.fingerprint))
    for keys in key_batches(records, records.shown(state.generation)):
        rows = document_rows(records, keys)
        chunks = chunk_rows(records, keys)
        ids = [row.id for row in chunks]
        try:
            vectors = milvus.vectors(collection, ids, state.guarantee)
        except MissingCollectionError:
            _raise_if_outdated(records, state)
            raise
        _raise_if_outdated(records, state)
        if len(vectors) < len(ids):
            raise DamagedStoreError(
                f"{len(ids) - len(vectors)} vectors of the knowledge base {records.name!r} are not"
                " in Milvus.",
                "Mend it with: rag repair",
            )
        by_document: dict[int, list[Any]] = {}
        for row in chunks:
            by_document.setdefault(row.document_key, []).append(row)
        for row in rows:
            mine = by_document.get(row.key, [])
            yield document_of(row), _chunks(mine), _matrix([vectors[c.id] for c in mine], state)


def _chunks(rows: Sequence[Any]) -> list[Chunk]:
    return [chunk_of(row) for row in rows]


def _matrix(vectors: Sequence[Any], state: State) -> Matrix:
    import numpy as np

    assert state.fingerprint is not None
    return np.array(vectors, np.float32).reshape(len(vectors), state.fingerprint.dimension)


def _raise_if_outdated(records: Records, state: State) -> None:
    if records.is_outdated(state.generation) or records.identity != state.identity:
        raise BusyError(
            "The knowledge base was changed so often that what is being read is no longer kept.",
            "Try again. How many generations are kept is set by RAG_KEEP_GENERATIONS.",
        )


def key_batches(records: Records, where: Any) -> Iterator[list[int]]:
    """Keys of the documents that meet the condition, rising, in batches of bounded size."""
    import sqlalchemy as sa

    d = records.tables.documents
    wanted = sa.select(d.c.key, d.c.chunks).where(where).order_by(d.c.key).limit(_DOCUMENTS)
    last = 0
    while True:
        with records.part.reading() as connection:
            found = connection.execute(wanted.where(d.c.key > last)).all()
        if not found:
            return
        last = found[-1].key
        batch: list[int] = []
        held = 0
        for row in found:
            batch.append(row.key)
            held += row.chunks
            if held >= _CHUNKS:
                yield batch
                batch, held = [], 0
        if batch:
            yield batch


def document_rows(records: Records, keys: Sequence[int]) -> list[Any]:
    """By rising key."""
    import sqlalchemy as sa

    d = records.tables.documents
    with records.part.reading() as connection:
        wanted = sa.select(d).where(d.c.key.in_(list(keys))).order_by(d.c.key)
        return list(connection.execute(wanted))


def chunk_rows(records: Records, keys: Sequence[int]) -> list[Any]:
    """Of the documents, each document's in order, with its id as `document_id`."""
    import sqlalchemy as sa

    d, c = records.tables.documents, records.tables.chunks
    wanted = (
        sa.select(c, d.c.id.label("document_id"))
        .join(d, d.c.key == c.c.document_key)
        .order_by(c.c.document_key, c.c.ordinal, c.c.id)
    )
    found: list[Any] = []
    with records.part.reading() as connection:
        for some in batches(keys, _DOCUMENTS):
            found += connection.execute(wanted.where(d.c.key.in_(some)))
    return found


def chunk_ids(records: Records, keys: Sequence[int]) -> list[int]:
    """Of all chunks of the documents."""
    import sqlalchemy as sa

    c = records.tables.chunks
    with records.part.reading() as connection:
        wanted = sa.select(c.c.id).where(c.c.document_key.in_(list(keys))).order_by(c.c.id)
        return [int(i) for i in connection.execute(wanted).scalars()]
