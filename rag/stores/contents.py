"""A knowledge base as a whole, read document by document: for moving it elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rag.types import Chunk, Document, Fingerprint

if TYPE_CHECKING:
    from rag.types import Matrix

    Row = tuple[Document, list[Chunk], Matrix]


@dataclass(frozen=True, slots=True)
class Contents:
    """One generation. `rows` can be gone through once: each document with its chunks in order and
    their vectors, one row a chunk. `fingerprint` is None where nothing was ever published.
    """

    generation: int
    fingerprint: Fingerprint | None
    documents: int
    chunks: int
    rows: Iterator[Row]


class HasContents(Protocol):
    """A store whose contents can be read while it is in use; they are of one moment."""

    def contents(self) -> AbstractContextManager[Contents]: ...
