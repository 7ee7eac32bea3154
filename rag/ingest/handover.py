"""Documents on their way from the thread that reads to the one that embeds."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from rag.errors import RagError
from rag.types import Chunk, Document

_MOST_DOCUMENTS = 64
_MOST_CHARACTERS = 20_000_000


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document and its pieces, to be embedded. `is_new`: nothing of its uri was known."""

    document: Document
    chunks: list[Chunk]
    is_new: bool


class Handover:
    """A queue for one reader and one taker, that holds so many documents, and so much of their
    text, or one that is longer."""

    def __init__(
        self, *, documents: int = _MOST_DOCUMENTS, characters: int = _MOST_CHARACTERS
    ) -> None:
        self._most_documents = documents
        self._most_characters = characters
        self._waiting: deque[Prepared] = deque()
        self._characters = 0
        self._changed = threading.Condition()
        self._ended = False
        self._error: RagError | None = None

    def put(self, prepared: Prepared) -> None:
        """Waits for room, unless `close` was called."""
        size = len(prepared.document.text)
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._has_room(size))
            self._waiting.append(prepared)
            self._characters += size
            self._changed.notify_all()

    def _has_room(self, size: int) -> bool:
        return not self._waiting or (
            len(self._waiting) < self._most_documents
            and self._characters + size <= self._most_characters
        )

    def take(self) -> Prepared | None:
        """The next, in the order they came; None when all are taken. Raises what ended them."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if not self._waiting:
                if self._error is not None:
                    raise self._error
                return None
            prepared = self._waiting.popleft()
            self._characters -= len(prepared.document.text)
            self._changed.notify_all()
            return prepared

    def close(self, error: RagError | None = None) -> None:
        """Nothing more will come, because of `error` if there is one, or nobody takes any more."""
        with self._changed:
            self._ended = True
            self._error = self._error or error
            self._changed.notify_all()

    @property
    def is_closed(self) -> bool:
        return self._ended

    @property
    def is_empty(self) -> bool:
        return not self._waiting
