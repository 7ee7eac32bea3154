"""The embedded knowledge base: a folder with a database and the two indexes derived from it.

knowledge.db             documents, chunks, vectors: the truth (see database.py)
vectors.<N>.faiss        a cache, see vectors.py
keywords-<recipe>/       a cache, see keywords.py
write.lock, caches.lock  held by the process that ingests, that brings the caches up to date
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rag.errors import BusyError, FingerprintError, StoreError
from rag.stores.ahead import prepared, vectors_ahead
from rag.stores.contents import Contents
from rag.stores.database import Database, State
from rag.stores.files import exclusive
from rag.stores.generations import (
    Freed,
    Generation,
    forget_removals,
    listed,
    prune,
    roll_back,
    shrink,
)
from rag.stores.keywords import (
    Coming,
    KeywordIndex,
    KeywordView,
    Match,
    is_damage,
    is_of_the_system,
)
from rag.stores.recall import Recall, keep, kept, measured
from rag.stores.staging import Staging
from rag.stores.stored import Stored
from rag.stores.vectors import (
    Base,
    VectorIndex,
    as_ids,
    base_files,
    build_base_of,
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

_log = logging.getLogger("rag")
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
    """A `ChunkStore` in one folder. Opening it brings the caches up to date.

    Writing keeps `keep_generations` before the published one, to be brought back.
    """

    def __init__(self, folder: Path, *, keep_generations: int = 0) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"The folder {folder} cannot be made: {error.strerror}.",
                "Choose another place with RAG_INDEXES.",
            ) from None
        self._folder = folder
        self._keep = keep_generations
        self._db = Database(folder / "knowledge.db")
        self._keywords = KeywordIndex(folder, self._db.identity)
        self._refreshing = threading.Lock()
        self._view: _View | None = None
        self._rebuilding: threading.Thread | None = None

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

    def contents(self) -> AbstractContextManager[Contents]:
        """All that is published now, for as long as it is open; writers and readers go on."""
        return self._db.contents()

    def close(self) -> None:
        """Waits for a vector index that is being made in the background."""
        if self._rebuilding is not None:
            self._rebuilding.join()
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

    def measure_recall(self, sample: int = 200) -> Recall | None:
        """How much of what is nearest search finds, with that many questions; the search is made
        wider where it finds too little. Reads every vector. None if there is nothing yet."""
        view = self._current()
        if view is None or not len(view.vectors):
            return None
        before = view.vectors.width
        recall = measured(self._db, view.vectors, sample=sample)
        keep(self._folder, recall)
        if view.vectors.width != before and view.vectors.base is not None:
            self._keep_base(view.vectors.base)
        return recall

    def last_recall(self) -> Recall | None:
        """What `measure_recall` last found, in whichever process."""
        return kept(self._folder)

    # --- keeping the caches up to date --------------------------------------------------------

    def refresh(self) -> bool:
        with self._refreshing:
            moved = False
            for _ in range(_TRIES):
                state = self._db.state()
                if state.fingerprint is None or state == (self._view and self._view.state):
                    break
                if state.identity != self._keywords.identity:
                    self._keywords = KeywordIndex(self._folder, state.identity)
                view = self._newer_view(state, state.fingerprint.dimension)
                if view is not None:
                    self._view = view
                    moved = True
            return moved

    def _newer_view(self, state: State, dimension: int) -> _View | None:
        """A view of `state` or, where another process is ahead, of a later generation; None if the
        vectors have become others meanwhile, or the database another one."""
        keywords = self._keywords_at(state.generation)
        if keywords.generation != state.generation:
            if not _same_vectors(self._db.state(), state):
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

    def _catch_up_keywords(self, *, anew: bool = False) -> None:
        state = self._db.state()
        held = self._keywords.view().generation
        if not (held == 0 or state.removals_since <= held <= state.generation):
            self._keywords.start_anew()
            held = 0
        if held == state.generation:
            return
        try:
            self._write_keywords(held, state.generation)
        except BaseException as error:
            if not is_damage(error):
                raise
            if anew or is_of_the_system(error):
                raise _unwritable(self._folder, error) from error
            self._keywords.start_anew()
            self._catch_up_keywords(anew=True)

    def _write_keywords(self, held: int, newest: int) -> None:
        self._keywords.catch_up(
            self._db.removed_between(held, newest), self._db.texts_between(held, newest), newest
        )

    def _vectors_at(self, state: State, dimension: int) -> VectorIndex:
        index = VectorIndex.empty(dimension)
        if self._view and _same_vectors(self._view.state, state):
            index = self._view.vectors
        index = self._advanced(self._newer_base(index, state, dimension), state, dimension)
        return self._rebuilt(index, dimension) if index.must_be_rebuilt else index

    def _advanced(self, index: VectorIndex, state: State, dimension: int) -> VectorIndex:
        held, wanted = index.generation, state.generation
        ids, vectors = gather(self._db.vectors_between(held, wanted), dimension)
        removed = as_ids(self._db.removed_between(held, wanted))
        return index.changed(ids, vectors, removed, wanted)

    def _newer_base(self, index: VectorIndex, state: State, dimension: int) -> VectorIndex:
        for path, held in base_files(self._folder):
            if held < state.vectors_since or held > self._db.generation():
                # Of another model, or of a database that was here before.
                path.unlink(missing_ok=True)
            elif index.generation < held <= state.generation:
                base = load_base(path, held, dimension, state.identity)
                if base is not None:
                    return VectorIndex.of(base, dimension)
        return index

    def _rebuilt(self, index: VectorIndex, dimension: int) -> VectorIndex:
        """A new base from the database; kept in memory only, if another process is writing one."""
        stored = Stored(self._db, dimension, index.generation)
        base = build_base_of(stored, dimension, index.generation)
        self._keep_base(base)
        return VectorIndex.of(base, dimension)

    def _keep_base(self, base: Base) -> None:
        try:
            with exclusive(self._folder / "caches.lock", "bringing the indexes up to date"):
                save_base(base, self._folder, self._db.identity)
        except BusyError:
            pass
        except OSError as error:  # it is only a cache; the next to open makes it again
            _log.warning("The vector index in %s cannot be kept: %s.", self._folder, error)

    # --- writing ------------------------------------------------------------------------------

    @contextmanager
    def writer(
        self, fingerprint: Fingerprint, *, replacing: bool = False
    ) -> Iterator[EmbeddedWriter]:
        with exclusive(self._folder / "write.lock", "writing to this knowledge base"):
            recorded = self._db.state().fingerprint
            if recorded not in (None, fingerprint) and not replacing:
                raise _other_vectors(recorded, fingerprint)
            self._forget_the_future()
            with self._db.explained(), closing(self._db.connect()) as connection:
                staging = Staging(connection, fingerprint, replacing=replacing, keep=self._keep)
                began = staging.target
                yield EmbeddedWriter(staging, self._ahead)
                if staging.target > began:
                    self._settle(staging)

    # --- generations ----------------------------------------------------------------------------

    def generations(self) -> list[Generation]:
        """The published one and those that can be brought back, newest first."""
        with self._db.reading() as db:
            return listed(db)

    def rollback(self, generation: int | None = None) -> int:
        """Publishes what an earlier generation showed, by default the one before, as a new one;
        returns its number. Nothing is embedded; a rollback can itself be rolled back.

        Raises NotFoundError if it is not kept, InputError if it is the published one, BusyError
        if another process is writing.
        """
        with self._writing() as connection:
            number = roll_back(connection, generation)
            if self._followed():
                prune(connection, self._keep)
        return number

    def gc(self, keep: int | None = None) -> Freed:
        """Lets go of all generations but the published one and `keep` before it (by default as
        many as writing keeps), and gives their space back to the disk. Raises BusyError.
        """
        before = self._db.size()
        with self._writing() as connection:
            followed = self._followed()
            freed = prune(connection, self._keep if keep is None else keep)
            if followed:
                forget_removals(connection, self._oldest_cache())
            shrink(connection)
        return replace(freed, bytes=max(before - self._db.size(), 0))

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with (
            exclusive(self._folder / "write.lock", "writing to this knowledge base"),
            self._db.explained(),
            closing(self._db.connect()) as connection,
        ):
            yield connection

    def _followed(self) -> bool:
        """Whether the caches have come up to what is published; another process may be at it."""
        try:
            self.refresh()
        except BusyError:
            return False
        return True

    def _oldest_cache(self) -> int:
        held = [held for _, held in base_files(self._folder)]
        return min([self._keywords.view().generation, *held])

    def _forget_the_future(self) -> None:
        """Drops indexes of generations the database does not have, because an older one was put in
        its place: once it had as many generations, they would pass for its own."""
        newest = self._db.generation()
        for path, held in base_files(self._folder):
            if held > newest:
                path.unlink(missing_ok=True)
        if self._keywords.view().generation > newest:
            with exclusive(self._folder / "caches.lock", "bringing the indexes up to date"):
                self._keywords.start_anew()

    def _settle(self, staging: Staging) -> None:
        """After publishing: the indexes first, then what they no longer need is deleted."""
        if self._followed():  # else the next writer deletes
            staging.purge()
            self._rebuild_in_background()

    @contextmanager
    def _ahead(self, staging: Staging) -> Iterator[None]:
        """Readers see what the block publishes at once, however much it is. Where another process
        has the caches, they follow it afterwards."""
        with ExitStack() as held:
            try:
                lock = exclusive(self._folder / "caches.lock", "bringing the indexes up to date")
                held.enter_context(lock)
            except BusyError:
                yield
                return
            self._catch_up_keywords()
            vectors = vectors_ahead(
                self._db,
                None if self._view is None else self._view.vectors,
                staging.dimension,
                staging.target,
                replacing=staging.replacing,
            )
            coming = self._keywords_ahead(staging.target)
            if coming is None:
                yield
                return
            with prepared(self._folder, self._db, coming, staging.target, vectors):
                yield

    def _keywords_ahead(self, target: int) -> Coming | None:
        """None if the index is damaged: it is made anew after publishing."""
        try:
            return self._keywords.prepare((), self._db.texts_between(target - 1, target))
        except BaseException as error:
            if not is_damage(error):
                raise
            if is_of_the_system(error):
                raise _unwritable(self._folder, error) from error
            return None

    def _rebuild_in_background(self) -> None:
        """A new base for a view that has outgrown its own, while questions go on with that."""
        view = self._view
        busy = self._rebuilding is not None and self._rebuilding.is_alive()
        if view is not None and view.vectors.wants_rebuild and not busy:
            self._rebuilding = threading.Thread(target=self._rebuild, args=(view,), name="rebuild")
            self._rebuilding.start()

    def _rebuild(self, view: _View) -> None:
        dimension = view.vectors.delta.shape[1]
        try:
            rebuilt = self._rebuilt(view.vectors, dimension)
        except StoreError as error:  # what there is goes on being searched; the next writer retries
            _log.warning("The vector index in %s cannot be made anew: %s.", self._folder, error)
            return
        with self._refreshing:
            now = self._view
            if now is not None and _same_vectors(now.state, view.state):
                self._view = replace(now, vectors=self._advanced(rebuilt, now.state, dimension))


def _same_vectors(one: State, other: State) -> bool:
    """Whether an index of the one can be brought to the other by what changed since."""
    return (one.identity, one.vectors_since) == (other.identity, other.vectors_since)


def _unwritable(folder: Path, error: BaseException) -> StoreError:
    why = "the disk is full" if "No space left" in str(error) else str(error)
    return StoreError(
        f"The keyword index in {folder} cannot be written: {why}.",
        "Check the disk's free space and the folder's permissions, then run the command again:"
        " nothing that was ingested is lost.",
    )


def _other_vectors(recorded: Fingerprint, offered: Fingerprint) -> FingerprintError:
    return FingerprintError(
        f"This knowledge base holds vectors of {recorded.model} ({recorded.revision},"
        f" {recorded.dimension} dimensions), not of {offered.model} ({offered.revision},"
        f" {offered.dimension} dimensions).",
        f"Use the recorded model, or change it with: rag reindex --embedding {offered.model}",
    )


class EmbeddedWriter:
    """A `StoreWriter` over the database; the caches follow when someone refreshes."""

    def __init__(
        self, staging: Staging, ahead: Callable[[Staging], AbstractContextManager[None]]
    ) -> None:
        self._staging = staging
        self._ahead = ahead

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
        with self._ahead(self._staging):
            return self._staging.publish()


def _candidate(chunk_id: int, cosine: float, match: Match, dense: bool, keyword: bool) -> Candidate:
    via: Via = "both" if dense and keyword else "dense" if dense else "keyword"
    return Candidate(chunk_id, cosine, match.bm25, match.coverage, match.share, via)
