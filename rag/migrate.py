"""Copies a knowledge base from one kind of store to another, vectors included, and proves it.

Nothing is embedded. The source cannot change meanwhile, for its writer is held; readers of both go
on. A copy that broke off goes on where it was. Whoever calls decides what switching is.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag.errors import DamagedStoreError, InputError, StoreError
from rag.types import Chunk, ChunkStore, Document, DocumentInfo, StoreWriter

if TYPE_CHECKING:
    from rag.types import Matrix, Vector

_BATCH_CHUNKS = 2000
_TOP = 10
_TIE = 1e-4  # cosines and BM25 scores this close are equal, relative to the greater
# Keyword scores count chunks that went until the index merges them away, so those of a new index
# differ a little; in a small knowledge base that moves many of the ten.
_LEAST_KEYWORD_OVERLAP = 0.5
_QUESTION = 200  # characters of a chunk that ask for it

Key = tuple[str, int]  # a chunk's document and ordinal: ids differ between stores


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyProgress:
    """How far a copy is, what an earlier try had copied included."""

    documents_done: int
    documents: int
    chunks_done: int
    chunks: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """The target holds what the source holds.

    `copied` and `kept` are documents: put now, and there already. Overlaps are the mean share of
    the source's best ten that the target finds, for `sampled` chunks asked for, 0..1; what scores
    the same counts as the same.
    """

    documents: int
    chunks: int
    copied: int
    kept: int
    removed: int
    sampled: int
    dense_overlap: float
    keyword_overlap: float
    generation: int
    seconds: float


def migrate(
    source: ChunkStore,
    target: ChunkStore,
    *,
    replacing: bool = False,
    samples: int = 100,
    least_overlap: float = 0.95,
    on_progress: Callable[[CopyProgress], None] = lambda _progress: None,
    switch: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> Verified:
    """Makes the target hold what the source has published, and nothing else.

    `switch` is called when that is proven, while nobody can write to the source yet.

    Raises InputError for a source without documents, BusyError if one of the two is being written
    to, FingerprintError if the target holds other vectors and is not `replacing` them, and
    StoreError if what the target then holds or finds is not what the source does.
    """
    fingerprint = source.fingerprint
    if fingerprint is None:
        raise InputError(
            "There is nothing to copy: the knowledge base has no documents.",
            "Fill it with: rag ingest PATH",
        )
    began = clock()
    with source.writer(fingerprint) as held:
        with target.writer(fingerprint, replacing=replacing) as writer:
            copy = _Copy(
                source, fingerprint.dimension, held, writer, on_progress, lambda: clock() - began
            )
            copy.run()
            sampled = _sample(source, copy.infos, samples)
            vectors = held.vectors([chunk.embedded_text for chunk in sampled])
            _check_vectors(vectors, writer.vectors(list(vectors)))
            generation = writer.publish()
        source.refresh()
        target.refresh()
        _check_documents(copy.infos, target.documents())
        dense, keyword = _overlaps(source, target, sampled, vectors)
        _check_overlaps(dense, keyword, least_overlap)
        switch()
    return Verified(
        documents=len(copy.infos),
        chunks=sum(info.chunks for info in copy.infos),
        copied=copy.copied,
        kept=copy.kept,
        removed=copy.removed,
        sampled=len(sampled),
        dense_overlap=dense,
        keyword_overlap=keyword,
        generation=generation,
        seconds=clock() - began,
    )


class _Copy:
    """The copying itself: what the target does not hold yet, in batches."""

    def __init__(
        self,
        source: ChunkStore,
        dimension: int,
        held: StoreWriter,
        writer: StoreWriter,
        on_progress: Callable[[CopyProgress], None],
        seconds: Callable[[], float],
    ) -> None:
        self._source = source
        self._dimension = dimension
        self._held = held
        self._writer = writer
        self._on_progress = on_progress
        self._seconds = seconds
        self.infos = source.documents()
        self._chunks = sum(info.chunks for info in self.infos)
        self.copied = self.kept = self.removed = 0
        self._chunks_done = 0

    def run(self) -> None:
        known = self._writer.known()
        wanted = {info.uri for info in self.infos}
        for uri in [uri for uri in known if uri not in wanted]:
            self._writer.remove(uri)
            self.removed += 1
        missing = []
        held = known.some(wanted)
        for info in self.infos:
            if info.uri in held and _same(held[info.uri], info):
                self.kept += 1
                self._chunks_done += info.chunks
            else:
                missing.append(info)
        self._tell()
        for batch in self._batches(missing):
            self._put(batch)

    def _batches(self, infos: Sequence[DocumentInfo]) -> Iterator[list[DocumentInfo]]:
        batch: list[DocumentInfo] = []
        for info in infos:
            batch.append(info)
            if sum(i.chunks for i in batch) >= _BATCH_CHUNKS:
                yield batch
                batch = []
        if batch:
            yield batch

    def _put(self, batch: Sequence[DocumentInfo]) -> None:
        documents = [
            (self._source.document(info.id), self._source.chunks(info.id)) for info in batch
        ]
        texts = dict.fromkeys(c.embedded_text for _, chunks in documents for c in chunks)
        vectors = self._held.vectors(list(texts))
        for document, chunks in documents:
            self._writer.put(document, chunks, self._rows(document, chunks, vectors))
            self.copied += 1
            self._chunks_done += len(chunks)
            self._tell()

    def _rows(
        self, document: Document, chunks: Sequence[Chunk], vectors: Mapping[str, Vector]
    ) -> Matrix:
        import numpy as np

        lost = [chunk for chunk in chunks if chunk.embedded_text not in vectors]
        if lost:
            raise DamagedStoreError(
                f"{len(lost)} vectors of {document.name} are missing in the original.",
                "Embed anew what is missing with: rag repair",
            )
        rows = [vectors[chunk.embedded_text] for chunk in chunks]
        return np.array(rows, np.float32).reshape(len(rows), self._dimension)

    def _tell(self) -> None:
        self._on_progress(
            CopyProgress(
                documents_done=self.kept + self.copied,
                documents=len(self.infos),
                chunks_done=self._chunks_done,
                chunks=self._chunks,
                seconds=self._seconds(),
            )
        )


def _same(one: DocumentInfo, other: DocumentInfo) -> bool:
    """All but when it was stored."""
    return _told(one) == _told(other)


def _told(info: DocumentInfo) -> tuple[object, ...]:
    return (
        *(info.id, info.uri, info.name, info.type, info.title, info.content_hash),
        *(info.settings_hash, info.size, info.tags, info.chunks),
    )


# --- the proof ------------------------------------------------------------------------------------


def _sample(store: ChunkStore, infos: Sequence[DocumentInfo], count: int) -> list[Chunk]:
    """Chunks of documents chosen at random, the same ones every time."""
    generator = random.Random(1)  # noqa: S311 - nothing secret depends on it
    filled = [info for info in infos if info.chunks]
    chosen = generator.sample(filled, min(count, len(filled)))
    return [generator.choice(store.chunks(info.id)) for info in chosen]


def _check_vectors(expected: Mapping[str, Vector], held: Mapping[str, Vector]) -> None:
    import numpy as np

    wrong = [
        text
        for text, vector in expected.items()
        if text not in held or not np.allclose(vector, held[text], atol=1e-5)
    ]
    if wrong:
        raise StoreError(
            f"{len(wrong)} of {len(expected)} vectors did not arrive as they were sent.",
            "Nothing was published. Copy again.",
        )


def _check_documents(expected: Sequence[DocumentInfo], held: Sequence[DocumentInfo]) -> None:
    differing = {_told(info) for info in expected} ^ {_told(info) for info in held}
    if differing:
        names = sorted({str(told[2]) for told in differing})
        raise StoreError(
            f"The copy differs from the original in {len(names)} documents, among them {names[0]}.",
            "Does another process write to the copy? Copy again.",
        )


def _check_overlaps(dense: float, keyword: float, least: float) -> None:
    if dense < least or keyword < _LEAST_KEYWORD_OVERLAP:
        raise StoreError(
            f"The copy finds other chunks than the original: of its best ten {dense:.1%} by"
            f" meaning ({least:.0%} are needed) and {keyword:.1%} by words"
            f" ({_LEAST_KEYWORD_OVERLAP:.0%}) are the same.",
            "The original is unchanged. Check the copy's vector index, and copy again.",
        )


def _overlaps(
    source: ChunkStore,
    target: ChunkStore,
    sampled: Sequence[Chunk],
    vectors: Mapping[str, Vector],
) -> tuple[float, float]:
    """Of the dense and of the keyword leg."""
    dense, keyword = [], []
    for chunk in sampled:
        question, vector = chunk.text[:_QUESTION], vectors[chunk.embedded_text]
        expected, found = _best(source, question, vector), _best(target, question, vector)
        dense.append(_overlap(expected[0], found[0]))
        keyword.append(_overlap(expected[1], found[1]))
    return _mean(dense), _mean(keyword)


def _best(
    store: ChunkStore, question: str, vector: Vector
) -> tuple[dict[Key, float], dict[Key, float]]:
    """The best ten of each leg, with that leg's scores."""
    candidates = store.search(question, vector, limit=_TOP)
    rows = store.fetch([c.chunk_id for c in candidates])
    keys = {i: (chunk.document_id, chunk.ordinal) for i, (chunk, _, _) in rows.items()}
    return (
        {keys[c.chunk_id]: c.dense for c in candidates if c.via != "keyword"},
        {keys[c.chunk_id]: c.keyword for c in candidates if c.via != "dense"},
    )


def _overlap(expected: Mapping[Key, float], found: Mapping[Key, float]) -> float:
    """1.0 where nothing was expected."""
    if not expected:
        return 1.0
    least = min(expected.values())
    least -= abs(least) * _TIE
    same = [key for key, score in found.items() if key in expected or score >= least]
    return min(1.0, len(same) / len(expected))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 1.0
