"""The nouns of the house, the events of an answer, and the protocols at its seams.

All character offsets count Unicode code points into `Content.text`, half-open: `text[start:end]`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]  # shape (dimension,)
    Matrix = NDArray[np.float32]  # shape (n, dimension)

T = TypeVar("T")

# --- the way in -------------------------------------------------------------------------------

ElementKind = Literal["heading", "text", "code", "header", "row"]


@dataclass(frozen=True, slots=True)
class Element:
    """One block of a document: `text[start:end]`, where it stands and under which headings.

    `header` is the first row of a table, `row` any other; a row and a code block are never split.
    `heading` is the path of headings above, outermost first; a heading element's own text is not
    in its own path. `page` counts from 1 (slides of a presentation are pages), and so does `row`,
    as a person counts the rows of the sheet or table, its header among them.
    """

    kind: ElementKind
    start: int
    end: int
    heading: tuple[str, ...] = ()
    page: int | None = None
    sheet: str | None = None
    row: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What one file says. Elements are in order, do not overlap, and lie inside `text`.

    `notes` are for who ingests it: what was left out, and what reading it cost. `lacking` names
    what it takes to read what was left out; as long as that is lacking, reading again is of no use.
    """

    type: str  # the lower-case extension that names the format: "pdf", "md", ...
    title: str
    text: str
    elements: tuple[Element, ...]
    notes: tuple[str, ...] = ()
    lacking: str = ""


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
    the model beside it, and never quoted. `rows` has start and end, in the
    document's text, and number of each table row of which it has a part, in order.
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
    rows: tuple[tuple[int, int, int], ...] = ()

    @property
    def embedded_text(self) -> str:
        return f"{self.context}\n{self.text}" if self.context else self.text

    def row_between(self, start: int, end: int) -> int | None:
        """The number of the first table row that has a part of the document's `text[start:end]`."""
        return next((row for s, e, row in self.rows if s < end and start < e), None)


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


# --- the way out ------------------------------------------------------------------------------

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Image:
    """A checked picture: its bytes as they are sent to the model."""

    media_type: str  # "image/png", ...
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """What a model wants called. `arguments` is JSON as the model wrote it, unchecked."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as it is described to a model; `parameters` is a JSON schema of an object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """`tool_calls` belong to an assistant's message, `tool_call_id` to the result of one."""

    role: Role
    text: str
    images: tuple[Image, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or more model calls; `estimated` if a server reported none.

    `cost` is in US dollars, None where a price is not known.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    cost: float | None = None

    def __add__(self, other: Usage) -> Usage:
        known = [cost for cost in (self.cost, other.cost) if cost is not None]
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.estimated or other.estimated,
            sum(known) if known else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """On whose behalf a model is called: for routing, budgets and the audit; never sent to it."""

    caller: str = ""
    session_id: str = ""
    knowledge_base: str = ""
    preset: str = ""
    question: str = ""
    documents: tuple[str, ...] = ()  # names of the documents in the prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """What is sent to a model. `extra` goes into the request body as it is.

    `schema` is the JSON schema that the whole reply has to fit.
    """

    messages: tuple[Message, ...]
    stream: bool = True
    temperature: float | None = None
    max_tokens: int | None = None
    tools: tuple[ToolSpec, ...] = ()
    schema: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    context: CallContext = CallContext()


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a model's reply; the texts of all pieces joined are the reply.

    Tool calls come whole, all in one piece, after the text. `model` is the name of the model that
    wrote the piece. Usage comes once, last.
    """

    text: str = ""
    usage: Usage | None = None
    finish_reason: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    model: str = ""

    @property
    def says_something(self) -> bool:
        return bool(self.text or self.tool_calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried:
    """A try of a model failed before it said anything; `next_model` is asked in `wait` seconds.

    `code` and `reason` are those of the error.
    """

    model: str
    next_model: str
    code: str
    reason: str
    wait: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What a model can do. `context_window` is in tokens of prompt and reply together.

    `tools` and `schema`: it takes the `tools` and `response_format` of the OpenAI format.
    """

    context_window: int
    max_output_tokens: int | None = None
    vision: bool = False
    tools: bool = False
    schema: bool = False
    max_image_side: int = 2048  # pixels


ModelEvent = Delta | Retried


class ChatModel(Protocol):
    """A chat model, or something round one. Raises ModelError; nothing is buffered.

    Closing the iterator, or cancelling its task, cancels the call to the server. Once a piece that
    says something was given out, nothing is tried again: what fails then is raised.
    """

    @property
    def name(self) -> str: ...

    @property
    def abilities(self) -> Abilities: ...

    def chat(self, request: ChatRequest) -> AsyncGenerator[ModelEvent]: ...

    async def aclose(self) -> None: ...


class SharedState(Protocol):
    """Small values that all processes with one Redis share, or the parts of this process."""

    async def change(
        self, key: str, step: Callable[[bytes | None], tuple[bytes | None, T]], *, keep: float
    ) -> T:
        """Replaces the value in one step and returns what `step` returns beside it.

        `step` gets the value (None if there is none) and gives the new one (None removes it); it
        may be called again with a newer value. A value not changed for `keep` seconds is forgotten.
        """
        ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """A mark [n] of an answer, tied to the exact characters that support it.

    `quote == document.text[start:end]`; `page`, `heading` and `row`, the number of the first table
    row in it, are where the quote stands.
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
    row: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds from the start of the question."""

    retrieved: float
    first_token: float | None
    total: float


EXTRACTIVE = "extractive"  # in a model's place, where answers are quoted passages


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`model` is the model's name, or EXTRACTIVE; `refused` means the documents do not tell.

    `cached`: it was replayed, and cost nothing; `usage` is then what it cost the first time.
    `data` is what `text` holds as JSON, where a schema was asked for.
    """

    text: str
    refused: bool
    citations: tuple[Citation, ...]
    model: str
    usage: Usage
    timings: Timings
    notice: str = ""  # what the reader should know about how the answer came about
    cached: bool = False
    data: Any = None


@dataclass(frozen=True, slots=True)
class Retrieved:
    """First event: the hits, best first. Source [n] is `hits[n - 1]`.

    It comes again, with more hits behind the old ones, when a model has searched for itself.
    """

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUsed:
    """A tool was called. `result` is what the model was given, an error's text if `failed`."""

    name: str
    arguments: str
    result: str
    failed: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Held:
    """Last event of an answer that a person has to approve before it is released."""

    review_id: str
    reason: str


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


AnswerEvent = Retrieved | Token | Cited | Retried | ToolUsed | Held | Finished | Failed
