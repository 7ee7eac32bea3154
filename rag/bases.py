"""The knowledge bases of one folder: their stores, and the parts that answer from them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag.calibrate import Calibration
from rag.config import Settings
from rag.embed import Choice, choose_embedder, open_embedder
from rag.errors import FingerprintError, NotFoundError
from rag.extract import Extractor
from rag.places import Place, Places
from rag.retrieve import Retriever
from rag.types import ChunkStore, Embedder, Filters, Fingerprint, Hit, Message, StoreWriter

if TYPE_CHECKING:
    from rag.stores.managed import ManagedStore

DEFAULT = "default"
OnPrepare = Callable[[str, float], None]
ChooseEmbedder = Callable[[Settings, Fingerprint | None, OnPrepare | None], Choice]


def _nothing(_: object) -> None:
    return None


@dataclass(frozen=True, slots=True)
class KnowledgeBase:
    """An open knowledge base and the parts that answer from it."""

    name: str
    store: ChunkStore
    embedder: Embedder
    retriever: Retriever
    extractor: Extractor


@dataclass(frozen=True, slots=True)
class Size:
    """Of what is published."""

    documents: int
    chunks: int


class KnowledgeBases:
    """Opens each store and each embedding model once. Safe to call from several threads."""

    def __init__(
        self, settings: Settings, places: Places, *, choose: ChooseEmbedder = choose_embedder
    ) -> None:
        self._settings = settings
        self.places = places
        self._choose = choose
        self._lock = threading.RLock()
        self._stores: dict[str, tuple[Place, ManagedStore]] = {}
        self._left: list[ManagedStore] = []
        self._open: dict[str, KnowledgeBase] = {}
        self._embedders: dict[Fingerprint, Embedder] = {}

    def close(self) -> None:
        with self._lock:
            for store in [*self._left, *(store for _, store in self._stores.values())]:
                store.close()
            self._left.clear()
            self._stores.clear()
            self._open.clear()

    def names(self) -> list[str]:
        """The knowledge bases there are."""
        return self.places.names()

    def store(self, name: str) -> ManagedStore:
        """Raises NotFoundError if nothing was ever ingested under this name."""
        return self._store_at(name, self.existing(name))

    def existing(self, name: str) -> Place:
        """Where a knowledge base is that is there. Raises NotFoundError."""
        place = self.places.place(name)
        if place is None:
            raise NotFoundError(
                f"There is no knowledge base {name!r} in {self._settings.indexes}.",
                f"Make it with: rag ingest PATH{'' if name == DEFAULT else f' --kb {name}'}",
            )
        return place

    def forget(self, name: str) -> None:
        """Closes it; the next question opens it anew."""
        with self._lock:
            self._open.pop(name, None)
            opened = self._stores.pop(name, None)
            if opened is not None:
                opened[1].close()

    def open_store(self, name: str) -> ManagedStore:
        """Where the knowledge base is, else where new ones are made."""
        return self._store_at(name, self.places.place(name) or self.places.new())

    def _store_at(self, name: str, place: Place) -> ManagedStore:
        with self._lock:
            if name in self._stores and self._stores[name][0] != place:
                self._left.append(self._stores.pop(name)[1])  # it has moved; some still read it
            if name not in self._stores:
                self._stores[name] = place, self.places.open(name, place)
            return self._stores[name][1]

    def size(self, name: str) -> Size:
        """Told without counting. Raises NotFoundError."""
        for generation in self.store(name).generations():
            return Size(generation.documents, generation.chunks)
        return Size(0, 0)

    @contextmanager
    def writer(
        self, name: str, fingerprint: Fingerprint, *, replacing: bool = False
    ) -> Iterator[StoreWriter]:
        """Like the store's; who waited for it while the knowledge base moved writes to where it is
        now."""
        while True:
            store = self.open_store(name)
            with store.writer(fingerprint, replacing=replacing) as writer:
                if self.open_store(name) is store:
                    yield writer
                    return

    def knowledge_base(self, name: str = DEFAULT) -> KnowledgeBase:
        """Open for questions, with the model its vectors are of.

        Raises NotFoundError, EmbedderError, FingerprintError.

        One at a time: the heavy libraries, imported here for the first time, must not meet each
        other half imported in two threads.
        """
        with self._lock:
            store = self.store(name)
            base = self._open.get(name)
            if (
                base is None
                or base.store is not store
                or store.fingerprint != base.embedder.fingerprint
            ):
                base = self._open[name] = self._opened(name, store)
            return base

    def _opened(self, name: str, store: ManagedStore) -> KnowledgeBase:
        store.refresh()
        embedder = self.embedder(store, _nothing)
        calibration = Calibration.of(embedder, self._settings.cache_dir)
        retriever = Retriever(
            store,
            embedder,
            calibration,
            candidates=self._settings.candidates,
            threshold=self._settings.threshold,
        )
        extractor = Extractor(embedder, spread=1 - calibration.floor)
        return KnowledgeBase(name, store, embedder, retriever, extractor)

    def embedder(
        self,
        store: ChunkStore,
        on_notice: Callable[[str], None],
        on_prepare: OnPrepare | None = None,
    ) -> Embedder:
        with self._lock:
            recorded = store.fingerprint
            if recorded is not None and recorded in self._embedders:
                return self._embedders[recorded]
            choice = self._choose(self._settings, recorded, on_prepare)
            if recorded is None:
                on_notice(f"Embedding model: {choice.reason}")
                on_notice("To use another: rag reindex --embedding NAME")
            return self._embedders.setdefault(choice.embedder.fingerprint, choice.embedder)

    def embedder_of(self, fingerprint: Fingerprint) -> Embedder:
        """The model that made these vectors. Raises EmbedderError if it is not to be had."""
        with self._lock:
            if fingerprint not in self._embedders:
                choice = self._choose(self._settings, fingerprint, None)
                self._embedders.setdefault(choice.embedder.fingerprint, choice.embedder)
            return self._embedders[fingerprint]

    def opened(self) -> list[KnowledgeBase]:
        """Those that questions have been asked of."""
        with self._lock:
            return list(self._open.values())

    def refresh(self) -> None:
        """Lets open knowledge bases see what other processes have published since."""
        for base in self.opened():
            base.store.refresh()

    def any_embedder(self) -> Embedder:
        """The one in use, else the one a new knowledge base would get."""
        with self._lock:
            if not self._embedders:
                embedder = self._choose(self._settings, None, None).embedder
                self._embedders[embedder.fingerprint] = embedder
            return next(iter(self._embedders.values()))

    def named_embedder(self, name: str, on_prepare: OnPrepare | None = None) -> Embedder:
        """Raises EmbedderUnavailableError."""
        with self._lock:
            embedder = open_embedder(name, self._settings, on_prepare)
            return self._embedders.setdefault(embedder.fingerprint, embedder)


class Following:
    """Retrieves from a knowledge base, and follows it to another embedding model."""

    def __init__(self, bases: KnowledgeBases, name: str) -> None:
        self._bases = bases
        self._name = name

    def retrieve(
        self,
        question: str,
        *,
        top_k: int,
        filters: Filters = Filters(),
        history: Sequence[Message] = (),
        threshold: float | None = None,
    ) -> list[Hit]:
        def found() -> list[Hit]:
            return self._bases.knowledge_base(self._name).retriever.retrieve(
                question, top_k=top_k, filters=filters, history=history, threshold=threshold
            )

        try:
            return found()
        except FingerprintError:  # it moved between the question's embedding and the search
            return found()
