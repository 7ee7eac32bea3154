"""Putting what came from elsewhere into a store, with the vectors it came with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rag.errors import DamagedStoreError
from rag.types import Chunk, Document, DocumentInfo, Fingerprint, StoreWriter

if TYPE_CHECKING:
    from rag.types import Matrix

    Row = tuple[Document, list[Chunk], Matrix]


class HasWriter(Protocol):
    """A `ChunkStore`, as far as it is written to."""

    def writer(
        self, fingerprint: Fingerprint, *, replacing: bool = False
    ) -> AbstractContextManager[StoreWriter]: ...


OnDocument = Callable[[int], None]
"""Told how many documents are done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What was brought in. `unchanged` counts documents that were there already.

    `notes` are for who imports: what was left out or is less than it could be.
    """

    documents: int
    chunks: int
    unchanged: int
    generation: int
    notes: tuple[str, ...] = ()


def _nothing(_: int) -> None:
    return None


def put_all(
    rows: Iterable[Row],
    store: HasWriter,
    fingerprint: Fingerprint,
    *,
    replacing: bool = False,
    on_document: OnDocument = _nothing,
    notes: tuple[str, ...] = (),
) -> Imported:
    """Publishes all of `rows` in one step; if they break off, nothing.

    A process that dies leaves what was put to the next try, which goes on from there.
    """
    with store.writer(fingerprint, replacing=replacing) as writer:
        known = writer.known()
        put: list[str] = []
        unchanged = chunks = 0
        try:
            for done, (document, pieces, vectors) in enumerate(rows, 1):
                check(document, pieces, vectors, fingerprint)
                if _is_there(known.get(document.uri), document, len(pieces)):
                    unchanged += 1
                else:
                    writer.put(document, pieces, vectors)
                    put.append(document.uri)
                    chunks += len(pieces)
                on_document(done)
        except BaseException:
            # Left staged, it would be published by whoever writes next.
            _take_back(writer, put)
            raise
        return Imported(
            documents=len(put),
            chunks=chunks,
            unchanged=unchanged,
            generation=writer.publish(),
            notes=notes,
        )


def _is_there(known: DocumentInfo | None, document: Document, chunks: int) -> bool:
    return known is not None and (
        known.content_hash,
        known.settings_hash,
        known.tags,
        known.chunks,
    ) == (document.content_hash, document.settings_hash, document.tags, chunks)


def _take_back(writer: StoreWriter, uris: list[str]) -> None:
    for uri in uris:
        writer.remove(uri)


def check(
    document: Document, chunks: list[Chunk], vectors: Matrix, fingerprint: Fingerprint
) -> None:
    """That chunks stand where they say and vectors are vectors. Raises DamagedStoreError."""
    import numpy as np

    if vectors.shape != (len(chunks), fingerprint.dimension):
        raise _wrong(document, f"its vectors have the shape {vectors.shape}")
    for chunk in chunks:
        if chunk.text != document.text[chunk.start : chunk.end]:
            raise _wrong(document, f"chunk {chunk.ordinal} is not found at its place")
    lengths = np.linalg.norm(vectors, axis=1)
    if not np.isfinite(lengths).all() or (
        fingerprint.normalized and (np.abs(lengths - 1) > 0.01).any()
    ):
        raise _wrong(document, "its vectors are not of unit length")


def _wrong(document: Document, what: str) -> DamagedStoreError:
    return DamagedStoreError(
        f"{document.name} cannot be imported: {what}.", "Nothing was changed. Export it again."
    )
