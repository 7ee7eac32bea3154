"""What questions see of a knowledge base in Milvus, and how it moves on with the records."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from rag.stores.indexes.keywords import KeywordView
from rag.stores.milvus.ranked import RankedKeywords
from rag.stores.milvus.records import Records, State, recorded
from rag.stores.milvus.vectors import Milvus
from rag.stores.milvus.words import Words
from rag.stores.searching import TRIES


@dataclass(frozen=True, slots=True)
class View:
    """One generation: its keywords, and the collection its vectors are in."""

    state: State
    collection: str
    keywords: KeywordView | RankedKeywords


class Views:
    """The newest view of this process. Questions go on using the one they have."""

    def __init__(self, folder: Path, records: Records, milvus: Milvus) -> None:
        self._folder = folder
        self._milvus = milvus
        self._records = records
        self._words: Words | None = None
        self._identity = ""  # of the knowledge base that the words are of
        self.newest: View | None = None
        self._refreshing = threading.Lock()

    def current(self) -> View | None:
        """None if nothing was ever published."""
        if self.newest is None:
            self.refresh()
        return self.newest

    def refresh(self) -> bool:
        """Moves on to what is published, and brings the keywords up to it; whether there was
        anything new. Raises BusyError, StoreError."""
        with self._refreshing:
            moved = False
            for _ in range(TRIES):
                state = self._records.state()
                if state == (self.newest and self.newest.state):
                    break
                if state.fingerprint is None:
                    moved = self.newest is not None  # it was deleted
                    self.newest = None
                    break
                collection = self._records.collection(recorded(state.fingerprint))
                keywords = self._keywords(state, collection)
                if keywords.generation == state.generation:
                    self.newest = View(state, collection, keywords)
                    moved = True
            return moved

    def forget(self) -> None:
        """The next to ask opens all anew, as its files may be others."""
        with self._refreshing:
            self.newest = self._words = None

    def _keywords(self, state: State, collection: str) -> KeywordView | RankedKeywords:
        if self._milvus.ranks(collection):
            return RankedKeywords(self._milvus, self._records, collection, state)
        return self._words_of(state.identity).at(state.generation)

    def _words_of(self, identity: str) -> Words:
        if self._words is None or self._identity != identity:
            self._words = Words(self._folder / identity, self._records)
            self._identity = identity
        return self._words
