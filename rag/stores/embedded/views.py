"""What questions see of an embedded knowledge base, and how it moves on with the database."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from rag.errors import StoreError
from rag.stores.embedded.database import Database, State
from rag.stores.embedded.keyword_cache import KeywordCache
from rag.stores.embedded.vector_cache import VectorCache
from rag.stores.indexes.keywords import KeywordView
from rag.stores.indexes.vectors import VectorIndex
from rag.stores.searching import TRIES

_log = logging.getLogger("rag")


@dataclass(frozen=True, slots=True)
class View:
    """Both indexes at one generation."""

    state: State
    vectors: VectorIndex
    keywords: KeywordView


class Views:
    """The newest view of this process. Questions go on using the one they have."""

    def __init__(self, folder: Path, db: Database) -> None:
        self._db = db
        self.keywords = KeywordCache(folder, db)
        self.vectors = VectorCache(folder, db)
        self.newest: View | None = None
        self._refreshing = threading.Lock()
        self._rebuilding: threading.Thread | None = None

    def current(self) -> View | None:
        """None if nothing was ever published."""
        if self.newest is None:
            self.refresh()
        return self.newest

    def refresh(self) -> bool:
        """Moves on to what is published, and brings the caches up to it; whether there was
        anything new. Raises BusyError, StoreError."""
        with self._refreshing:
            moved = False
            for _ in range(TRIES):
                state = self._db.state()
                if state.fingerprint is None or state == (self.newest and self.newest.state):
                    break
                self.keywords.belongs_to(state.identity)
                view = self._newer(state, state.fingerprint.dimension)
                if view is not None:
                    self.newest = view
                    moved = True
            return moved

    def _newer(self, state: State, dimension: int) -> View | None:
        """A view of `state` or, where another process is ahead, of a later generation; None if the
        vectors have become others meanwhile, or the database another one."""
        keywords = self.keywords.at(state.generation)
        if keywords.generation != state.generation:
            if not _same_vectors(self._db.state(), state):
                return None
            state = replace(state, generation=keywords.generation)
        goes_on = self.newest is not None and _same_vectors(self.newest.state, state)
        held = self.newest.vectors if self.newest is not None and goes_on else None
        return View(state, self.vectors.at(state, dimension, held), keywords)

    def rebuild_in_background(self) -> None:
        """A new base for a view that has outgrown its own, while questions go on with that."""
        view = self.newest
        busy = self._rebuilding is not None and self._rebuilding.is_alive()
        if view is not None and view.vectors.wants_rebuild and not busy:
            self._rebuilding = threading.Thread(target=self._rebuild, args=(view,), name="rebuild")
            self._rebuilding.start()

    def _rebuild(self, view: View) -> None:
        dimension = view.vectors.delta.shape[1]
        try:
            rebuilt = self.vectors.rebuilt(view.vectors, dimension)
        except StoreError as error:  # what there is goes on being searched; the next writer retries
            _log.warning("The vector index cannot be made anew: %s.", error)
            return
        with self._refreshing:
            now = self.newest
            if now is not None and _same_vectors(now.state, view.state):
                vectors = self.vectors.advanced(rebuilt, now.state, dimension)
                self.newest = replace(now, vectors=vectors)

    def close(self) -> None:
        """Waits for a vector index that is being made in the background."""
        if self._rebuilding is not None:
            self._rebuilding.join()


def _same_vectors(one: State, other: State) -> bool:
    """Whether an index of the one can be brought to the other by what changed since."""
    return (one.identity, one.vectors_since) == (other.identity, other.vectors_since)
