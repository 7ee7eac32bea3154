"""The `ChunkStore` over the application database and Milvus."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rag.application import ApplicationDatabase
from rag.errors import BusyError, FingerprintError
from rag.stores.files import exclusive
from rag.stores.keywords import KeywordView, Match
from rag.stores.milvus.explain import MissingCollectionError
from rag.stores.milvus.records import Records, State, recorded
from rag.stores.milvus.staging import Staging
from rag.stores.milvus.vectors import Milvus
from rag.stores.milvus.words import Words
from rag.types import (
    Candidate,
    Chunk,
    Document,
    DocumentInfo,
    Filters,
    Fingerprint,
    Via,
)

if TYPE_CHECKING:
    import sqlalchemy as sa

    from rag.types import Vector

_log = logging.getLogger("rag")
_TRIES = 100
_SPARE = 20  # asked for beyond the limit, for what a writer has staged
_NO_MATCH = Match(0.0, 0.0, 0.0)
_LOCKS = 0x7261675F  # "rag_": PostgreSQL's locks of writers, one for each knowledge base


class _OutdatedError(Exception):
    """The view a search began with is no longer what the records hold."""


@dataclass(frozen=True, slots=True)
class _View:
    """What questions see. `condition` tells its rows in Milvus from earlier and coming ones."""

    state: State
    collection: str
    condition: str
    keywords: KeywordView


class MilvusStore:
    """The knowledge base `name`: its records in `database`, its vectors in Milvus at `uri`.

    `uri` is a server's address, or a path that ends in .db for Milvus Lite, which one process at a
    time can use. `folder` is for caches and locks of this machine. Milvus is first needed when
    something is searched or published.
    """

    def __init__(
        self,
        name: str,
        database: ApplicationDatabase,
        *,
        uri: str,
        token: str = "",
        folder: Path,
        timeout: float = 6.0,
    ) -> None:
        self._database = database
        self._records = Records(database, name)
        self._folder = folder
        self._milvus = Milvus(uri, token, timeout=timeout)
        self._words = Words(folder / self._records.identity, self._records)
        self._refreshing = threading.Lock()
        self._view: _View | None = None

    @property
    def fingerprint(self) -> Fingerprint | None:
        view = self._view
        return self._records.state().fingerprint if view is None else view.state.fingerprint

    @property
    def generation(self) -> int:
        return self._records.generation()

    @property
    def stamp(self) -> str:
        view = self._view
        seen = "0" if view is None else f"{view.state.generation}:{view.state.mark}"
        return f"{self._records.identity}:{seen}"

    def documents(self, filters: Filters = Filters()) -> list[DocumentInfo]:
        return self._records.documents(filters)

    def document(self, document_id: str) -> Document:
        return self._records.document(document_id)

    def chunks(self, document_id: str) -> list[Chunk]:
        return self._records.chunks(document_id)

    def lost(self) -> list[int]:
        """The ids of chunks that are shown and have no vector in Milvus: for `rag verify`."""
        view = self._current()
        if view is None:
            return []
        shown = self._records.shown(view.state.generation)
        present = self._milvus.present(view.collection, shown)
        return [] if len(present) == len(shown) else sorted(set(shown) - present)

    def close(self) -> None:
        self._milvus.close()

    # --- asking -------------------------------------------------------------------------------

    def search(
        self, question: str, vector: Vector, *, limit: int, filters: Filters = Filters()
    ) -> list[Candidate]:
        began = self.fingerprint
        for _ in range(_TRIES):
            view = self._current()
            if view is None:
                return []
            if began not in (None, view.state.fingerprint):
                raise FingerprintError(
                    "The knowledge base has just moved to another embedding model.", "Ask again."
                )
            try:
                return self._search(view, question, vector, limit, filters)
            except _OutdatedError:
                self.refresh()
        raise BusyError("The knowledge base changes faster than it can be searched.", "Ask again.")

    def _search(
        self, view: _View, question: str, vector: Vector, limit: int, filters: Filters
    ) -> list[Candidate]:
        keys: Sequence[int] | None = None
        if filters:
            if self._records.generation() != view.state.generation:
                raise _OutdatedError
            keys = self._records.allowed(filters, view.state.generation)
            if not keys:
                return []
        asked = view.keywords.question(question)
        keyword = asked.search(limit, keys)
        try:
            dense = self._nearest(view, vector, limit, keys)
            others = [i for i in keyword if i not in dense]
            cosines = dense | self._cosines(view, others, vector)
        except MissingCollectionError:
            self._raise_if_outdated(view)
            raise
        self._raise_if_outdated(view)
        both = [i for i in dict.fromkeys([*dense, *keyword]) if i in cosines]
        if len(cosines) < len(dense) + len(others):
            _log.warning("Milvus has lost vectors of this knowledge base: rag reindex")
        matches = asked.matches(both)
        keyword_ids = frozenset(keyword)
        return [
            _candidate(i, cosines[i], matches.get(i, _NO_MATCH), i in dense, i in keyword_ids)
            for i in both
        ]

    def _raise_if_outdated(self, view: _View) -> None:
        """Rows that the view shows may have been deleted while it was searched."""
        if self._records.purged() > view.state.generation:
            raise _OutdatedError

    def _nearest(
        self, view: _View, vector: Vector, limit: int, keys: Sequence[int] | None
    ) -> dict[int, float]:
        """The records have the last word on what is seen.

        Without a condition Milvus is fastest, and mostly all it has is seen. It may still show for
        a moment what is deleted; it is then asked again for everything up to now.
        """
        state = view.state
        if keys is None:
            some = self._seen(view, vector, limit + _SPARE, "", state.guarantee)[0]
            if len(some) >= limit:
                return dict(list(some.items())[:limit])
        where = view.condition
        if keys is not None:
            where += f" and document in {list(keys)}"
        for guarantee in (state.guarantee, 0):
            some, are_all = self._seen(view, vector, limit, where, guarantee)
            if are_all:
                break
        return some

    def _seen(
        self, view: _View, vector: Vector, limit: int, where: str, guarantee: int
    ) -> tuple[dict[int, float], bool]:
        """What Milvus finds of what is seen, best first, and whether that is all it finds."""
        found = self._milvus.search(view.collection, vector, limit, where, guarantee)
        seen = self._records.seen(list(found), view.state.generation)
        return {i: score for i, score in found.items() if i in seen}, len(seen) == len(found)

    def _cosines(self, view: _View, chunk_ids: Sequence[int], vector: Vector) -> dict[int, float]:
        if not chunk_ids:
            return {}
        stored = self._milvus.vectors(view.collection, chunk_ids, view.state.guarantee)
        return {i: float(v @ vector) for i, v in stored.items()}

    def fetch(self, chunk_ids: Sequence[int]) -> dict[int, tuple[Chunk, str, str]]:
        view = self._current()
        return {} if view is None else self._records.fetch(chunk_ids, view.state.generation)

    def _current(self) -> _View | None:
        if self._view is None:
            self.refresh()
        return self._view

    def refresh(self) -> bool:
        with self._refreshing:
            moved = False
            for _ in range(_TRIES):
                state = self._records.state()
                if state.fingerprint is None or state == (self._view and self._view.state):
                    break
                keywords = self._words.at(state.generation)
                if keywords.generation == state.generation:
                    self._view = self._view_of(state, state.fingerprint, keywords)
                    moved = True
            return moved

    def _view_of(self, state: State, fingerprint: Fingerprint, keywords: KeywordView) -> _View:
        condition = f"added_in <= {state.generation}"
        gone = self._records.gone(state.generation)
        if gone:
            condition += f" and document not in {gone}"
        collection = self._records.collection(recorded(fingerprint))
        return _View(state, collection, condition, keywords)

    # --- writing ------------------------------------------------------------------------------

    @contextmanager
    def writer(self, fingerprint: Fingerprint, *, replacing: bool = False) -> Iterator[Staging]:
        with self._alone():
            held = self._records.state().fingerprint
            if held not in (None, fingerprint) and not replacing:
                raise _other_vectors(held, fingerprint)
            staging = Staging(self._records, self._milvus, fingerprint, replacing=replacing)
            began = staging.target
            yield staging
            if staging.target > began:
                self._settle(staging)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One writer on this machine; with PostgreSQL, one of all machines."""
        lock = self._folder / self._records.identity / "write.lock"
        with ExitStack() as held:
            held.enter_context(exclusive(lock, "writing to this knowledge base"))
            if not self._database.has_one_writer:
                self._lock_out_others(held.enter_context(self._records.part.reading()))
            yield

    def _lock_out_others(self, connection: sa.Connection) -> None:
        """For as long as this transaction of PostgreSQL lasts."""
        import sqlalchemy as sa

        taken = sa.func.pg_try_advisory_xact_lock(_LOCKS, self._records.base)
        if not connection.execute(sa.select(taken)).scalar_one():
            raise BusyError(
                "A process on another machine is writing to this knowledge base.",
                "Try again when it has finished.",
            )

    def _settle(self, staging: Staging) -> None:
        """After publishing: the indexes first, then what they no longer need is deleted."""
        try:
            self.refresh()
        except BusyError:  # another process is at it; the next writer deletes
            return
        staging.purge()


def _other_vectors(recorded: Fingerprint, offered: Fingerprint) -> FingerprintError:
    return FingerprintError(
        f"This knowledge base holds vectors of {recorded.model} ({recorded.revision},"
        f" {recorded.dimension} dimensions), not of {offered.model} ({offered.revision},"
        f" {offered.dimension} dimensions).",
        f"Use the recorded model, or change it with: rag reindex --embedding {offered.model}",
    )


def _candidate(chunk_id: int, cosine: float, match: Match, dense: bool, keyword: bool) -> Candidate:
    via: Via = "both" if dense and keyword else "dense" if dense else "keyword"
    return Candidate(chunk_id, cosine, match.bm25, match.coverage, match.share, via)
