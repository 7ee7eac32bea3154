"""An answer, as a stream of events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rag.types.models import Retried, Usage
from rag.types.storing import Hit


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
