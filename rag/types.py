"""The nouns of the house, the events of an answer, and the protocols at its seams.

All character offsets count Unicode code points into `Content.text`, half-open: `text[start:end]`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]  # shape (dimension,)
    Matrix = NDArray[np.float32]  # shape (n, dimension)

# --- the way in -------------------------------------------------------------------------------

ElementKind = Literal["heading", "text", "code", "header", "row"]


@dataclass(frozen=True, slots=True)
class Element:
    """One block of a document: `text[start:end]`, where it stands and under which headings.

    `header` is the first row of a table, `row` any other; a row and a code block are never split.
    `heading` is the path of headings above, outermost first; a heading element's own text is not
    in its own path. `page` counts from 1 (slides of a presentation are pages).
    """

    kind: ElementKind
    start: int
    end: int
    heading: tuple[str, ...] = ()
    page: int | None = None
    sheet: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What one file says. Elements are in order, do not overlap, and lie inside `text`."""

    type: str  # the lower-case extension that names the format: "pdf", "md", ...
    title: str
    text: str
    elements: tuple[Element, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document(Content):
    """One source file of a knowledge base."""

    id: str
    uri: str  # what identifies the file between two ingests
    name: str  # what a person sees: the path below the ingested folder, "/" between parts
    content_hash: str  # sha256 of the file's bytes, hex
    settings_hash: str = ""  # of all settings that decide what the file becomes
    size: int = 0  # bytes
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentInfo:
    """A document of a knowledge base, without its text."""

    id: str
    uri: str
    name: str
    type: str
    title: str
    content_hash: str
    settings_hash: str
    size: int
    tags: tuple[str, ...]
    chunks: int
    updated_at: str  # ISO 8601, UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a document that is embedded: `text == document.text[start:end]`.

    `context` (title, heading path, table header) is embedded and searched with the text, shown to
    the model beside it, and never quoted.
    """

    document_id: str
    ordinal: int
    start: int
    end: int
    text: str
    context: str = ""
    heading: tuple[str, ...] = ()
    page: int | None = None
    sheet: str | None = None

    @property
    def embedded_text(self) -> str:
        return f"{self.context}\n{self.text}" if self.context else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Which vectors these are. Two knowledge bases can be compared only if all of it is equal."""

    model: str
    revision: str
    dimension: int
    normalized: bool = True
    query_prefix: str = ""
    document_prefix: str = ""


class Embedder(Protocol):
    """Text to vectors. The methods have the names and shapes of LangChain's `Embeddings`.

    Vectors are float32 of unit length, one row a text, in the order given. Empty input gives shape
    (0, dimension). Text beyond `max_tokens` is cut by the model. Safe to call from several threads.
    Raises EmbedderError.
    """

    @property
    def fingerprint(self) -> Fingerprint: ...

    @property
    def max_tokens(self) -> int: ...

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` for this model, prefixes and special tokens left out."""
        ...

    def embed_documents(self, texts: Sequence[str]) -> Matrix: ...

    def embed_query(self, text: str) -> Vector: ...


# --- the store --------------------------------------------------------------------------------


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


class StoreWriter(Protocol):
    """One ingest's changes. Nothing of them is seen before `publish`, and then all at once.

    What was put and not published (the process died) is kept: the next writer finds it in
    `known`, so that work is resumed and not repeated.
    """

    def known(self) -> Mapping[str, DocumentInfo]:
        """By uri, every document as it would stand after publishing now."""
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

    def refresh(self) -> bool:
        """Move on to the newest published generation; True if there was a newer one."""
        ...

    def documents(self, filters: Filters = Filters()) -> list[DocumentInfo]: ...

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


# --- the way out ------------------------------------------------------------------------------

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Image:
    """A checked picture: its bytes as they are sent to the model."""

    media_type: str  # "image/png", ...
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    text: str
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or more model calls; `estimated` if the server reported none."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """What is sent to a model. `extra` goes into the request body as it is."""

    messages: tuple[Message, ...]
    stream: bool = True
    temperature: float | None = None
    max_tokens: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a model's reply; the texts of all pieces joined are the reply."""

    text: str = ""
    usage: Usage | None = None
    finish_reason: str | None = None


class ChatModel(Protocol):
    """A chat model, or something round one. Raises ModelError; nothing is buffered.

    Closing the iterator, or cancelling its task, cancels the call to the server.
    """

    @property
    def name(self) -> str: ...

    @property
    def vision(self) -> bool: ...

    @property
    def context_window(self) -> int:
        """Tokens of prompt and reply together."""
        ...

    def chat(self, request: ChatRequest) -> AsyncGenerator[Delta]: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """A mark [n] of an answer, tied to the exact characters that support it.

    `quote == document.text[start:end]`; `page` and `heading` are where the quote stands.
    """

    n: int
    document_id: str
    document: str
    page: int | None
    sheet: str | None
    heading: tuple[str, ...]
    quote: str
    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds from the start of the question."""

    retrieved: float
    first_token: float | None
    total: float


EXTRACTIVE = "extractive"  # in a model's place, where answers are quoted passages


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`model` is the model's name, or EXTRACTIVE; `refused` means the documents do not tell."""

    text: str
    refused: bool
    citations: tuple[Citation, ...]
    model: str
    usage: Usage
    timings: Timings
    notice: str = ""  # what the reader should know about how the answer came about


@dataclass(frozen=True, slots=True)
class Retrieved:
    """First event: the hits, best first. Source [n] is `hits[n - 1]`."""

    hits: tuple[Hit, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the answer's text; citation marks arrive whole."""

    text: str


@dataclass(frozen=True, slots=True)
class Cited:
    """A mark [n] has just been written."""

    citation: Citation


@dataclass(frozen=True, slots=True)
class Finished:
    """Last event of an answer that succeeded, refusals included."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Failed:
    """Last event of an answer that broke off. Text sent before it stands, but is not whole."""

    code: str
    message: str
    hint: str
    retryable: bool


AnswerEvent = Retrieved | Token | Cited | Finished | Failed
