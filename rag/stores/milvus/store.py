"""The `ChunkStore` over the application database and Milvus."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rag.application import ApplicationDatabase
from rag.errors import BusyError
from rag.stores.contents import Contents
from rag.stores.managed import Freed, Generation, chosen
from rag.stores.milvus.asking import search_view
from rag.stores.milvus.contents import contents_of
from rag.stores.milvus.destroy import clear_remains, doom
from rag.stores.milvus.fields import Keywords
from rag.stores.milvus.generations import forget_removals, listed, prune, roll_back
from rag.stores.milvus.graves import Graves
from rag.stores.milvus.known import StoredDocuments
from rag.stores.milvus.locks import alone
from rag.stores.milvus.measuring import measured
from rag.stores.milvus.records import Records
from rag.stores.milvus.staging import Staging
from rag.stores.milvus.vectors import Milvus
from rag.stores.milvus.views import Views
from rag.stores.recall import Recall, keep, kept
from rag.stores.searching import other_vectors, search_newest
from rag.types import (
    Candidate,
    Chunk,
    Document,
    DocumentInfo,
    Filters,
    Fingerprint,
    Known,
)

if TYPE_CHECKING:
    from rag.types import Vector


class MilvusStore:
    """The knowledge base `name`: its records in `database`, its vectors in Milvus at `uri`.

    `uri` is a server's address, or a path that ends in .db for Milvus Lite, which one process at a
    time can use. `folder` is for caches and locks of this machine. Writing keeps
    `keep_generations` before the published one, to be brought back. Nothing is made before the
    first writer comes; Milvus is first needed when something is searched or published. `keywords`
    says who ranks by them: this machine, or Milvus ("server"; "auto" where it is a server that
    can), if the collection was made for it.
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
        keep_generations: int = 0,
        keywords: Keywords = "local",
    ) -> None:
        self._database = database
        self._folder = folder
        self._keep = keep_generations
        self._unborn = secrets.token_hex(8)
        self.records = Records(database, name)
        self.milvus = Milvus(uri, token, timeout=timeout, keywords=keywords)
        self.views = Views(folder, self.records, self.milvus)

    @property
    def fingerprint(self) -> Fingerprint | None:
        view = self.views.newest
        return self.records.state().fingerprint if view is None else view.state.fingerprint

    @property
    def generation(self) -> int:
        return self.records.generation()

    @property
    def stamp(self) -> str:
        view = self.views.newest
        if view is None:
            return f"{self._unborn}:0"
        return f"{view.state.identity}:{view.state.generation}:{view.state.mark}"

    @property
    def caches(self) -> Path:
        """The folder of this knowledge base on this machine; it need not be there."""
        return self._folder / self.records.identity

    def close(self) -> None:
        self.milvus.close()

    # --- reading ------------------------------------------------------------------------------

    def documents(self, filters: Filters = Filters()) -> list[DocumentInfo]:
        return self.records.documents(filters)

    def known(self) -> Known:
        return StoredDocuments(self.records, self.records.visible)

    def document(self, document_id: str) -> Document:
        return self.records.document(document_id)

    def chunks(self, document_id: str) -> list[Chunk]:
        return self.records.chunks(document_id)

    @contextmanager
    def contents(self) -> Iterator[Contents]:
        """All that is published now; writers and readers go on.

        Its rows raise BusyError once a writer has published so often that they are not kept.
        """
        yield contents_of(self.records, self.milvus)

    def search(
        self, question: str, vector: Vector, *, limit: int, filters: Filters = Filters()
    ) -> list[Candidate]:
        return search_newest(
            self.views.current,
            self.views.refresh,
            self.fingerprint,
            lambda view: search_view(
                view, self.records, self.milvus, question, vector, limit, filters
            ),
        )

    def fetch(self, chunk_ids: Sequence[int]) -> dict[int, tuple[Chunk, str, str]]:
        view = self.views.current()
        return {} if view is None else self.records.fetch(chunk_ids, view.state.generation)

    def refresh(self) -> bool:
        return self.views.refresh()

    def measure_recall(self, sample: int = 200) -> Recall | None:
        """How much of what is nearest Milvus finds, with that many questions; reads every vector.
        None if there is nothing yet."""
        view = self.views.current()
        if view is None or not self.records.counts(view.state.generation)[1]:
            return None
        recall = measured(view, self.records, self.milvus, sample=sample)
        keep(self.caches, recall)
        return recall

    def last_recall(self) -> Recall | None:
        """What `measure_recall` last found, in whichever process of this machine."""
        return kept(self.caches) if self.records.base else None

    # --- writing ------------------------------------------------------------------------------

    @contextmanager
    def writer(self, fingerprint: Fingerprint, *, replacing: bool = False) -> Iterator[Staging]:
        with self.alone():
            held = self.records.state().fingerprint
            if held not in (None, fingerprint) and not replacing:
                raise other_vectors(held, fingerprint)
            staging = Staging(
                *(self.records, self.milvus, fingerprint), replacing=replacing, keep=self._keep
            )
            began = staging.target
            yield staging
            # The indexes first, then what they no longer need is deleted.
            if staging.target > began and self._followed():
                staging.purge()

    def alone(self) -> AbstractContextManager[None]:
        """Keeps all writers out; makes the knowledge base if there is none. Raises BusyError."""
        return alone(self._folder, self.records, self._database)

    def _followed(self) -> bool:
        """Whether the caches have come up to what is published; another process may be at it."""
        try:
            self.refresh()
        except BusyError:
            return False
        return True

    # --- generations --------------------------------------------------------------------------

    def generations(self) -> list[Generation]:
        """The published one and those that can be brought back, newest first."""
        with self.records.part.reading() as connection:
            return listed(connection, self.records)

    def rollback(self, generation: int | None = None) -> int:
        """Publishes what an earlier generation showed, by default the one before, as a new one;
        returns its number. Nothing is embedded; a rollback can itself be rolled back.

        Raises NotFoundError if it is not kept, InputError if it is the published one, BusyError
        if another process is writing.
        """
        chosen(self.generations(), generation)
        with self.alone():
            number = roll_back(self.records, generation)
            if self._followed():
                prune(self.records, Graves(self.records, self.milvus), self._keep)
        return number

    def gc(self, keep: int | None = None) -> Freed:
        """Lets go of all generations but the published one and `keep` before it (by default as
        many as writing keeps). Milvus gives the space back to the disk by itself, later.

        Raises BusyError.
        """
        if not self.records.base:
            return Freed()
        with self.alone():
            self._followed()
            graves = Graves(self.records, self.milvus)
            freed = prune(self.records, graves, self._keep if keep is None else keep)
            forget_removals(self.records)
            clear_remains(self.records, self.milvus, self._folder)
        return freed

    def destroy(self) -> None:
        """Deletes the knowledge base: its records, its collections in Milvus, its caches here.

        Nothing is changed if Milvus cannot be reached. If the process dies, nobody sees the
        knowledge base any more, and whoever destroys another one, or calls `gc`, deletes the rest.
        Raises BusyError while another process writes.
        """
        self.milvus.names("rag_")
        if self.records.base:
            with self.alone():
                doom(self.records)
        self.views.forget()
        clear_remains(self.records, self.milvus, self._folder)
