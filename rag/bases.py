"""The knowledge bases of one folder: their stores, and the parts that answer from them."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rag.calibrate import Calibration
from rag.config import Settings
from rag.embed import Choice, choose_embedder, open_embedder
from rag.errors import FingerprintError, InputError, NotFoundError
from rag.extract import Extractor
from rag.retrieve import Retriever
from rag.stores.embedded import EmbeddedStore
from rag.types import ChunkStore, Embedder, Filters, Fingerprint, Hit, Message

DEFAULT = "default"
_NAME = re.compile(r"[\w\-]{1,64}")
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


class KnowledgeBases:
    """Opens each store and each embedding model once. Safe to call from several threads."""

    def __init__(self, settings: Settings, *, choose: ChooseEmbedder = choose_embedder) -> None:
        self._settings = settings
        self._choose = choose
        self._lock = threading.RLock()
        self._stores: dict[str, EmbeddedStore] = {}
        self._open: dict[str, KnowledgeBase] = {}
        self._embedders: dict[Fingerprint, Embedder] = {}

    def close(self) -> None:
        with self._lock:
            for store in self._stores.values():
                store.close()
            self._stores.clear()
            self._open.clear()

    def names(self) -> list[str]:
        """The knowledge bases there are."""
        return sorted(p.parent.name for p in self._settings.indexes.glob("*/knowledge.db"))

    def store(self, name: str) -> ChunkStore:
        """Raises NotFoundError if nothing was ever ingested under this name."""
        self.existing(name)
        return self.open_store(name)

    def existing(self, name: str) -> Path:
        """The folder of a knowledge base that is there. Raises NotFoundError."""
        folder = self.folder(name)
        if not (folder / "knowledge.db").exists():
            raise NotFoundError(
                f"There is no knowledge base {name!r} in {self._settings.indexes}.",
                f"Make it with: rag ingest PATH{'' if name == DEFAULT else f' --kb {name}'}",
            )
        return folder

    def forget(self, name: str) -> None:
        """Closes it; the next question opens it anew."""
        with self._lock:
            self._open.pop(name, None)
            store = self._stores.pop(name, None)
            if store is not None:
                store.close()

    def open_store(self, name: str) -> EmbeddedStore:
        with self._lock:
            if name not in self._stores:
                self._stores[name] = EmbeddedStore(
                    self.folder(name), keep_generations=self._settings.keep_generations
                )
            return self._stores[name]

    def folder(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise InputError(
                f"{name!r} cannot name a knowledge base.",
                "Use up to 64 letters, digits, '-' and '_'.",
            )
        return self._settings.indexes / name

    def knowledge_base(self, name: str = DEFAULT) -> KnowledgeBase:
        """Open for questions, with the model its vectors are of.

        Raises NotFoundError, EmbedderError, FingerprintError.

        One at a time: the heavy libraries, imported here for the first time, must not meet each
        other half imported in two threads.
        """
        with self._lock:
            base = self._open.get(name)
            if base is None or base.store.fingerprint != base.embedder.fingerprint:
                base = self._open[name] = self._opened(name)
            return base

    def _opened(self, name: str) -> KnowledgeBase:
        store = self.store(name)
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
