"""The embedded knowledge base: a folder with a database and the two indexes derived from it.

knowledge.db             documents, chunks, vectors: the truth (see database.py)
vectors.<N>.faiss        a cache, see vectors.py
keywords-<recipe>/       a cache, see keywords.py
write.lock, caches.lock  held by the process that ingests, that brings the caches up to date
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rag.errors import BusyError, FingerprintError, StoreError
from rag.stores.database import Database, State
from rag.stores.files import exclusive
from rag.stores.keywords import KeywordIndex, KeywordView, Match
from rag.stores.staging import Staging
from rag.stores.vectors import (
    VectorIndex,
    as_ids,
    base_files,
    build_base,
    gather,
    load_base,
    save_base,
)
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
    from rag.types import Matrix, Vector

_TRIES = 100
_NO_MATCH = Match(0.0, 0.0, 0.0)


class _OutdatedError(Exception):
    """The view a search began with is no longer what the database holds."""


@dataclass(frozen=True, slots=True)
class _View:
    """What questions see: both indexes at one generation."""

    state: State
    vectors: VectorIndex
    keywords: KeywordView


class EmbeddedStore:
    """A `ChunkStore` in one folder. Opening it brings the caches up to date."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"The folder {folder} cannot be made: {error.strerror}.",
                "Choose another place with RAG_INDEXES.",
            ) from None
        self._folder = folder
        self._db = Database(folder / "knowledge.db")
        self._keywords = KeywordIndex(folder)
        self._refreshing = threading.Lock()
        self._view: _View | None = None

    @property
    def fingerprint(self) -> Fingerprint | None:
        view = self._view
        return self._db.state().fingerprint if view is None else view.state.fingerprint

    @property
    def generation(self) -> int:
        return self._db.generation()

    @property
    def stamp(self) -> str:
        view = self._view
        seen = 0 if view is None else view.state.generation
        return f"{self._db.identity}:{seen}"

    def documents(self, filters: Filters = Filters()) -> list[DocumentInfo]:
        return self._db.documents(filters)

    def document(self, document_id: str) -> Document:
        return self._db.document(document_id)

    def chunks(self, document_id: str) -> list[Chunk]:
        return self._db.chunks(document_id)

    def close(self) -> None:
        self._db.close()

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
        """Raises _OutdatedError where rows that the view knows are no longer in the database: what
        replaced them is for a newer view to find."""
        keys = ids = None
        if filters:
            generation, keys, chunk_ids = self._db.allowed(filters)
            if generation != view.state.generation:
                raise _OutdatedError
            ids = as_ids(chunk_ids)
            if not chunk_ids:
                return []
        dense = view.vectors.search(vector, limit, ids)
        asked = view.keywords.question(question)
        keyword = asked.search(limit, keys)
        both = list(dict.fromkeys([*dense, *keyword]))
        inexact = [i for i in both if i not in dense or not view.vectors.exact]
        stored = self._cosines(inexact, vector)
        if len(stored) < len(inexact) and self._db.generation() != view.state.generation:
            raise _OutdatedError
        cosines = dense | stored
        matches = asked.matches(both)
        keyword_ids = frozenset(keyword)
        return [
            _candidate(i, cosines[i], matches.get(i, _NO_MATCH), i in dense, i in keyword_ids)
            for i in both
            if i in cosines
        ]

    def _cosines(self, chunk_ids: Sequence[int], vector: Vector) -> dict[int, float]:
        import numpy as np

        stored = self._db.vectors_of(chunk_ids)
        if not stored:
            return {}
        matrix = np.frombuffer(b"".join(stored.values()), dtype="<f4").reshape(len(stored), -1)
        return dict(zip(stored, (matrix @ vector).tolist(), strict=True))

    def fetch(self, chunk_ids: Sequence[int]) -> dict[int, tuple[Chunk, str, str]]:
        view = self._current()
        return {} if view is None else self._db.fetch(chunk_ids, view.state.generation)

    def _current(self) -> _View | None:
        if self._view is None:
            self.refresh()
        return self._view

    # --- keeping the caches up to date --------------------------------------------------------

    def refresh(self) -> bool:
        with self._refreshing:
            moved = False
            for _ in range(_TRIES):
                state = self._db.state()
                if state.fingerprint is None or state == (self._view and self._view.state):
                    break
                view = self._newer_view(state, state.fingerprint.dimension)
                if view is not None:
                    self._view = view
                    moved = True
            return moved

    def _newer_view(self, state: State, dimension: int) -> _View | None:
        """A view of `state` or, where another process is ahead, of a later generation; None if the
        vectors have become others meanwhile."""
        keywords = self._keywords_at(state.generation)
        if keywords.generation != state.generation:
            if self._db.state().vectors_since != state.vectors_since:
                return None
            state = replace(state, generation=keywords.generation)
        return _View(state, self._vectors_at(state, dimension), keywords)

    def _keywords_at(self, generation: int) -> KeywordView:
        """A view of `generation` or a later one: another process may be ahead of us."""
        for _ in range(_TRIES):
            view = self._keywords.view()
            if generation <= view.generation <= self._db.generation():
                return view
            try:
                with exclusive(self._folder / "caches.lock", "bringing the indexes up to date"):
                    self._catch_up_keywords()
            except BusyError:
                threading.Event().wait(0.05)
        raise BusyError(
            "Another process has been bringing the keyword index up to date for too long.",
            "Try again in a minute.",
        )

    def _catch_up_keywords(self) -> None:
        newest = self._db.generation()
        held = self._keywords.view().generation
        if not 0 <= held <= newest:
            self._keywords.start_anew()
            held = 0
        if held < newest:
            self._keywords.catch_up(
                self._db.removed_between(held, newest),
                self._db.texts_between(held, newest),
                newest,
            )

    def _vectors_at(self, state: State, dimension: int) -> VectorIndex:
        index = VectorIndex.empty(dimension)
        if self._view and self._view.state.vectors_since == state.vectors_since:
            index = self._view.vectors
        index = self._newer_base(index, state, dimension)
        held, wanted = index.generation, state.generation
        ids, vectors = gather(self._db.vectors_between(held, wanted), dimension)
        removed = as_ids(self._db.removed_between(held, wanted))
        index = index.changed(ids, vectors, removed, wanted)
        return self._rebuilt(index, dimension) if index.wants_rebuild else index

    def _newer_base(self, index: VectorIndex, state: State, dimension: int) -> VectorIndex:
        for path, held in base_files(self._folder):
            if held < state.vectors_since or held > self._db.generation():
                # Of another model, or of a database that was here before.
                path.unlink(missing_ok=True)
            elif index.generation < held <= state.generation:
                base = load_base(path, held, dimension)
                if base is not None:
                    return VectorIndex.of(base, dimension)
        return index

    def _rebuilt(self, index: VectorIndex, dimension: int) -> VectorIndex:
        """A new base from the database; kept in memory only, if another process is writing one."""
        ids, vectors = gather(self._db.vectors_between(0, index.generation), dimension)
        base = build_base(ids, vectors, index.generation)
        try:
            with exclusive(self._folder / "caches.lock", "bringing the indexes up to date"):
                save_base(base, self._folder)
        except BusyError:
            pass
        return VectorIndex.of(base, dimension)

    # --- writing ------------------------------------------------------------------------------

    @contextmanager
    def writer(
        self, fingerprint: Fingerprint, *, replacing: bool = False
    ) -> Iterator[EmbeddedWriter]:
        with exclusive(self._folder / "write.lock", "writing to this knowledge base"):
            recorded = self._db.state().fingerprint
            if recorded not in (None, fingerprint) and not replacing:
                raise _other_vectors(recorded, fingerprint)
            with self._db.explained(), closing(self._db.connect()) as connection:
                staging = Staging(connection, fingerprint, replacing=replacing)
                began = staging.target
                yield EmbeddedWriter(staging)
                if staging.target > began:
                    self._settle(staging)

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


class EmbeddedWriter:
    """A `StoreWriter` over the database; the caches follow when someone refreshes."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging

    def known(self) -> Mapping[str, DocumentInfo]:
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
        return self._staging.publish()


def _candidate(chunk_id: int, cosine: float, match: Match, dense: bool, keyword: bool) -> Candidate:
    via: Via = "both" if dense and keyword else "dense" if dense else "keyword"
    return Candidate(chunk_id, cosine, match.bm25, match.coverage, match.share, via)
