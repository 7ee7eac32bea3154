"""The embedded knowledge base: a folder with a database and the two indexes derived from it.

knowledge.db             documents, chunks, vectors: the truth (see database.py)
vectors.<N>.faiss        a cache, see vectors.py
keywords-<recipe>/       a cache, see keywords.py
write.lock, caches.lock  held by the process that ingests, that brings the caches up to date
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from rag.stores.contents import Contents
from rag.stores.embedded.asking import search_view
from rag.stores.embedded.database import Database
from rag.stores.embedded.generations import listed
from rag.stores.embedded.measuring import measured
from rag.stores.embedded.views import Views
from rag.stores.embedded.writing import EmbeddedWriter, Writing
from rag.stores.files import make_folder
from rag.stores.managed import Freed, Generation
from rag.stores.recall import Recall, keep, kept
from rag.stores.searching import search_newest
from rag.types import Candidate, Chunk, Document, DocumentInfo, Filters, Fingerprint, Known

if TYPE_CHECKING:
    from rag.types import Vector


class EmbeddedStore:
    """A `ChunkStore` in one folder. Opening it brings the caches up to date.

    Writing keeps `keep_generations` before the published one, to be brought back.
    """

    def __init__(self, folder: Path, *, keep_generations: int = 0) -> None:
        make_folder(folder)
        self._folder = folder
        self._db = Database(folder / "knowledge.db")
        self._views = Views(folder, self._db)
        self._writing = Writing(folder, self._db, self._views, keep_generations)

    @property
    def fingerprint(self) -> Fingerprint | None:
        view = self._views.newest
        return self._db.state().fingerprint if view is None else view.state.fingerprint

    @property
    def generation(self) -> int:
        return self._db.generation()

    @property
    def stamp(self) -> str:
        view = self._views.newest
        seen = 0 if view is None else view.state.generation
        return f"{self._db.identity}:{seen}"

    def close(self) -> None:
        """Waits for a vector index that is being made in the background."""
        self._views.close()
        self._db.close()

    # --- reading ------------------------------------------------------------------------------

    def documents(self, filters: Filters = Filters()) -> list[DocumentInfo]:
        return self._db.documents(filters)

    def known(self) -> Known:
        return self._db.known()

    def document(self, document_id: str) -> Document:
        return self._db.document(document_id)

    def chunks(self, document_id: str) -> list[Chunk]:
        return self._db.chunks(document_id)

    def contents(self) -> AbstractContextManager[Contents]:
        """All that is published now, for as long as it is open; writers and readers go on."""
        return self._db.contents()

    def search(
        self, question: str, vector: Vector, *, limit: int, filters: Filters = Filters()
    ) -> list[Candidate]:
        return search_newest(
            self._views.current,
            self._views.refresh,
            self.fingerprint,
            lambda view: search_view(view, self._db, question, vector, limit, filters),
        )

    def fetch(self, chunk_ids: Sequence[int]) -> dict[int, tuple[Chunk, str, str]]:
        view = self._views.current()
        return {} if view is None else self._db.fetch(chunk_ids, view.state.generation)

    def refresh(self) -> bool:
        return self._views.refresh()

    def measure_recall(self, sample: int = 200) -> Recall | None:
        """How much of what is nearest search finds, with that many questions; the search is made
        wider where it finds too little. Reads every vector. None if there is nothing yet."""
        view = self._views.current()
        if view is None or not len(view.vectors):
            return None
        before = view.vectors.width
        recall = measured(self._db, view.vectors, sample=sample)
        keep(self._folder, recall)
        if view.vectors.width != before and view.vectors.base is not None:
            self._views.vectors.keep(view.vectors.base)
        return recall

    def last_recall(self) -> Recall | None:
        """What `measure_recall` last found, in whichever process."""
        return kept(self._folder)

    # --- writing ------------------------------------------------------------------------------

    def writer(
        self, fingerprint: Fingerprint, *, replacing: bool = False
    ) -> AbstractContextManager[EmbeddedWriter]:
        return self._writing.writer(fingerprint, replacing=replacing)

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
        return self._writing.rollback(generation)

    def gc(self, keep: int | None = None) -> Freed:
        """Lets go of all generations but the published one and `keep` before it (by default as
        many as writing keeps), and gives their space back to the disk. Raises BusyError.
        """
        return self._writing.gc(keep)
