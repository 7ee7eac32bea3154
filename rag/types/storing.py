"""A knowledge base: what is kept in it, looked for and found."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from rag.types.documents import Chunk, Document, DocumentInfo, Fingerprint

if TYPE_CHECKING:
    from rag.types.documents import Matrix, Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which documents may answer. Values of one field are alternatives; fields are combined.

    `documents`: ids or names; `paths`: shell patterns on the name; `types`: "pdf", "md", ...
    """

    documents: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    types: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.documents or self.tags or self.paths or self.types)


Via = Literal["dense", "keyword", "both"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chunk either leg found, with the scores of both legs.

    `dense` is the cosine, -1..1. `keyword` is BM25, at least 0. `coverage` is the share of the idf
    of the question's terms that the chunk holds, `share` the share of the terms; both 0..1. `via`
    tells which legs had it among their best.
    """

    chunk_id: int
    dense: float
    keyword: float
    coverage: float
    share: float
    via: Via


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A chunk found for a question.

    `score` is 0..1 and means the same from question to question: how sure we are that the chunk is
    about it. Hits are ranked by both legs together, so their scores need not fall strictly.
    """

    chunk: Chunk
    document: str  # the document's name
    title: str
    score: float
    dense: float
    keyword: float
    via: Via


class Known(Mapping[str, DocumentInfo]):
    """Documents by uri, looked up when they are asked for: what an ingest costs must not grow with
    what there is already. Only iteration and `len` walk all of them. Safe to use from one thread
    while another one writes.
    """

    @abstractmethod
    def some(self, uris: Iterable[str]) -> dict[str, DocumentInfo]:
        """Those of `uris` that are known; many at once cost a tenth of one after the other."""

    @abstractmethod
    def below(self, prefix: str) -> Iterator[str]:
        """The uris that begin with `prefix`, rising; what is written meanwhile may be among them.
        Costs what lies there."""

    @abstractmethod
    def holding(self, hashes: Iterable[str]) -> Iterator[str]:
        """The uris of documents whose `content_hash` is one of these."""


class StoreWriter(Protocol):
    """One ingest's changes. Nothing of them is seen before `publish`, and then all at once.

    What was put and not published (the process died) is kept: the next writer finds it in
    `known`, so that work is resumed and not repeated.
    """

    def known(self) -> Known:
        """Every document as it would stand after publishing now."""
        ...

    def vectors(self, texts: Sequence[str]) -> Mapping[str, Vector]:
        """The vectors of those `texts` that are stored already, by embedded text."""
        ...

    def put(self, document: Document, chunks: Sequence[Chunk], vectors: Matrix) -> None:
        """Add a document, or replace the one with its uri."""
        ...

    def remove(self, uri: str) -> None: ...

    def publish(self) -> int:
        """Show everything to readers in one step; returns the new generation."""
        ...


class ChunkStore(Protocol):
    """One knowledge base: documents, their chunks and vectors, and search over them.

    Readers always see exactly one published generation. Safe to call from several threads.
    Raises StoreError.
    """

    @property
    def fingerprint(self) -> Fingerprint | None:
        """Of the vectors that are searched; None until the first ingest is published."""
        ...

    @property
    def generation(self) -> int: ...

    @property
    def stamp(self) -> str:
        """Names what questions see now, among all that any knowledge base ever showed."""
        ...

    def refresh(self) -> bool:
        """Move on to the newest published generation; True if there was a newer one."""
        ...

    def documents(self, filters: Filters = Filters()) -> list[DocumentInfo]: ...

    def known(self) -> Known:
        """Every document that is published."""
        ...

    def document(self, document_id: str) -> Document:
        """Raises NotFoundError."""
        ...

    def chunks(self, document_id: str) -> list[Chunk]: ...

    def search(
        self, question: str, vector: Vector, *, limit: int, filters: Filters = Filters()
    ) -> list[Candidate]:
        """The best `limit` chunks of each leg, in no particular order, both scores for each."""
        ...

    def fetch(self, chunk_ids: Sequence[int]) -> dict[int, tuple[Chunk, str, str]]:
        """Chunk, document name and title by chunk id; an id that is gone is left out."""
        ...

    def writer(
        self, fingerprint: Fingerprint, *, replacing: bool = False
    ) -> AbstractContextManager[StoreWriter]:
        """Raises FingerprintError if the knowledge base holds other vectors, BusyError if
        another process is writing.

        When it ends, this store has moved on to what was published, and what that replaced is
        deleted. `replacing` builds the knowledge base anew, with vectors of any fingerprint: the
        documents there are count as unknown, and make way for the new ones on publishing.
        """
        ...

    def close(self) -> None: ...
