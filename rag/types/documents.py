"""What is read, and what becomes of it.

All character offsets count Unicode code points into `Content.text`, half-open: `text[start:end]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]  # shape (dimension,)
    Matrix = NDArray[np.float32]  # shape (n, dimension)


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
