"""Changing an embedded knowledge base: ingests, rollbacks, letting generations go."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rag.errors import BusyError
from rag.stores.embedded.ahead import leaving, prepared, vectors_ahead
from rag.stores.embedded.database import Database
from rag.stores.embedded.generations import forget_removals, prune, roll_back, shrink
from rag.stores.embedded.keyword_cache import CACHES_LOCK, CACHING
from rag.stores.embedded.staging import Staging
from rag.stores.embedded.stored import Stored
from rag.stores.embedded.views import Views
from rag.stores.files import exclusive
from rag.stores.indexes.keywords import Coming
from rag.stores.managed import Freed
from rag.stores.searching import other_vectors
from rag.types import Chunk, Document, Fingerprint, Known

if TYPE_CHECKING:
    from rag.types import Matrix, Vector


class Writing:
    """One writer at a time, of all processes. `keep` is how many generations before the published
    one can be brought back."""

    def __init__(self, folder: Path, db: Database, views: Views, keep: int) -> None:
        self._folder = folder
        self._db = db
        self._views = views
        self._keep = keep

    @contextmanager
    def writer(self, fingerprint: Fingerprint, *, replacing: bool) -> Iterator[EmbeddedWriter]:
        """Raises BusyError, FingerprintError."""
        with self._alone():
            recorded = self._db.state().fingerprint
            if recorded not in (None, fingerprint) and not replacing:
                raise other_vectors(recorded, fingerprint)
            self._forget_the_future()
            with self._connection() as connection:
                staging = Staging(connection, fingerprint, replacing=replacing, keep=self._keep)
                began = staging.target
                yield EmbeddedWriter(staging, self._ahead)
                if staging.target > began:
                    self._settle(staging)

    def rollback(self, generation: int | None) -> int:
        with self._alone(), self._connection() as connection:
            number = roll_back(connection, generation)
            if self._followed():
                prune(connection, self._keep)
        return number

    def gc(self, keep: int | None) -> Freed:
        before = self._db.size()
        with self._alone(), self._connection() as connection:
            followed = self._followed()
            freed = prune(connection, self._keep if keep is None else keep)
            if followed:
                forget_removals(connection, self._oldest_cache())
            shrink(connection)
        return replace(freed, bytes=max(before - self._db.size(), 0))

    def _alone(self) -> AbstractContextManager[None]:
        return exclusive(self._folder / "write.lock", "writing to this knowledge base")

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with self._db.explained(), closing(self._db.connect()) as connection:
            yield connection

    def _followed(self) -> bool:
        """Whether the caches have come up to what is published; another process may be at it."""
        try:
            self._views.refresh()
        except BusyError:
            return False
        return True

    def _oldest_cache(self) -> int:
        views = self._views
        return min([views.keywords.view().generation, *views.vectors.generations()])

    def _forget_the_future(self) -> None:
        """Drops indexes of generations the database does not have, because an older one was put in
        its place: once it had as many generations, they would pass for its own."""
        newest = self._db.generation()
        self._views.vectors.forget_the_future(newest)
        self._views.keywords.forget_the_future(newest)

    def _settle(self, staging: Staging) -> None:
        """After publishing: the indexes first, then what they no longer need is deleted."""
        if self._followed():  # else the next writer deletes
            staging.purge()
            self._views.rebuild_in_background()

    @contextmanager
    def _ahead(self, staging: Staging) -> Iterator[None]:
        """Readers see what the block publishes at once, however much it is. Where another process
        has the caches, they follow it afterwards."""
        with ExitStack() as held:
            try:
                held.enter_context(exclusive(self._folder / CACHES_LOCK, CACHING))
            except BusyError:
                yield
                return
            coming = self._coming(staging)
            if coming is None:
                yield
                return
            with prepared(self._folder, self._db, coming, staging.target, self._base(staging)):
                yield

    def _coming(self, staging: Staging) -> Coming | None:
        """None if there is nothing to prepare, or the index is damaged."""
        keywords, target, replacing = self._views.keywords, staging.target, staging.replacing
        gone = leaving(self._db, target, replacing=replacing)
        if not gone and not self._db.ids_between(target - 1, target):
            return None
        if not replacing:
            keywords.catch_up()
        return keywords.ahead(target, gone, anew=replacing)

    def _base(self, staging: Staging) -> Stored | None:
        view = self._views.newest
        held = None if view is None else view.vectors
        return vectors_ahead(
            self._db, held, staging.dimension, staging.target, replacing=staging.replacing
        )


class EmbeddedWriter:
    """A `StoreWriter` over the database; the caches follow when someone refreshes."""

    def __init__(
        self, staging: Staging, ahead: Callable[[Staging], AbstractContextManager[None]]
    ) -> None:
        self._staging = staging
        self._ahead = ahead

    def known(self) -> Known:
        return self._staging.known()

    def vectors(self, texts: Sequence[str]) -> Mapping[str, Vector]:
        import numpy as np

        stored = self._staging.vectors(texts)
        return {text: np.frombuffer(blob, dtype="<f4") for text, blob in stored.items()}

    def put(self, document: Document, chunks: Sequence[Chunk], vectors: Matrix) -> None:
        self._staging.put(document, chunks, vectors)

    def remove(self, uri: str) -> None:
        self._staging.remove(uri)

    def publish(self) -> int:
        with self._ahead(self._staging):
            return self._staging.publish()
