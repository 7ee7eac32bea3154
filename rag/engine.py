"""The one place where parts are chosen and put together."""

from __future__ import annotations

import re
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rag.answer import Answerer, Question
from rag.calibrate import Calibration
from rag.config import Settings
from rag.embed import Choice, choose_embedder, open_embedder
from rag.errors import FingerprintError, InputError, NotFoundError, VisionError
from rag.extract import Extractor
from rag.files import Upload, plan_files
from rag.images import ImageCheck
from rag.ingest import Ingest, Plan, Progress, Report, StoredDocument
from rag.load import LOADER_VERSION, load
from rag.models import Models
from rag.retrieve import Retriever
from rag.sessions import Sessions
from rag.split import Splitter
from rag.stores.embedded import EmbeddedStore
from rag.types import (
    EXTRACTIVE,
    AnswerEvent,
    ChatModel,
    Chunk,
    ChunkStore,
    Document,
    DocumentInfo,
    Embedder,
    Filters,
    Fingerprint,
    Hit,
    Image,
    Message,
)

DEFAULT = "default"
_NAME = re.compile(r"[\w\-]{1,64}")
_MAX_QUESTION = 8_000
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


class Engine:
    """What the command line and the server do, over the knowledge bases in one folder."""

    def __init__(self, settings: Settings, *, choose: ChooseEmbedder = choose_embedder) -> None:
        self.settings = settings
        self._choose = choose
        self._lock = threading.RLock()
        self._writing = threading.Lock()  # within this process, writers wait for each other
        self._stores: dict[str, EmbeddedStore] = {}
        self._open: dict[str, KnowledgeBase] = {}
        self._embedders: dict[Fingerprint, Embedder] = {}
        self._models = Models(settings)
        self._sessions: Sessions | None = None

    @classmethod
    def open(cls, settings: Settings | None = None) -> Engine:
        return cls(settings or Settings.read())

    async def aclose(self) -> None:
        await self._models.aclose()
        self.close()

    def close(self) -> None:
        with self._lock:
            for store in self._stores.values():
                store.close()
            self._stores.clear()
            self._open.clear()
            if self._sessions is not None:
                self._sessions.close()

    # --- knowledge bases ----------------------------------------------------------------------

    def names(self) -> list[str]:
        """The knowledge bases there are."""
        return sorted(p.parent.name for p in self.settings.indexes.glob("*/knowledge.db"))

    def store(self, name: str) -> ChunkStore:
        """Raises NotFoundError if nothing was ever ingested under this name."""
        if not (self._folder(name) / "knowledge.db").exists():
            raise NotFoundError(
                f"There is no knowledge base {name!r} in {self.settings.indexes}.",
                f"Make it with: rag ingest PATH{'' if name == DEFAULT else f' --kb {name}'}",
            )
        return self._store(name)

    def _store(self, name: str) -> EmbeddedStore:
        with self._lock:
            if name not in self._stores:
                self._stores[name] = EmbeddedStore(self._folder(name))
            return self._stores[name]

    def _folder(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise InputError(
                f"{name!r} cannot name a knowledge base.",
                "Use up to 64 letters, digits, '-' and '_'.",
            )
        return self.settings.indexes / name

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
        embedder = self._embedder(store, _nothing)
        calibration = Calibration.of(embedder, self.settings.cache_dir)
        retriever = Retriever(
            store,
            embedder,
            calibration,
            candidates=self.settings.candidates,
            threshold=self.settings.threshold,
        )
        extractor = Extractor(embedder, spread=1 - calibration.floor)
        return KnowledgeBase(name, store, embedder, retriever, extractor)

    def _embedder(
        self,
        store: ChunkStore,
        on_notice: Callable[[str], None],
        on_prepare: OnPrepare | None = None,
    ) -> Embedder:
        with self._lock:
            recorded = store.fingerprint
            if recorded is not None and recorded in self._embedders:
                return self._embedders[recorded]
            choice = self._choose(self.settings, recorded, on_prepare)
            if recorded is None:
                on_notice(f"Embedding model: {choice.reason}")
                on_notice("To use another: rag reindex --embedding NAME")
            return self._embedders.setdefault(choice.embedder.fingerprint, choice.embedder)

    def opened(self) -> list[KnowledgeBase]:
        """Those that questions have been asked of."""
        with self._lock:
            return list(self._open.values())

    def refresh(self) -> None:
        """Lets open knowledge bases see what other processes have published since."""
        for base in self.opened():
            base.store.refresh()

    # --- the way in ---------------------------------------------------------------------------

    def ingest(
        self,
        paths: Sequence[Path],
        *,
        knowledge_base: str = DEFAULT,
        tags: Sequence[str] | None = None,
        dry_run: bool = False,
        on_progress: Callable[[Progress], None] = _nothing,
        on_notice: Callable[[str], None] = _nothing,
        on_prepare: OnPrepare | None = None,
    ) -> Report:
        """Brings the knowledge base to what the files say. Raises RagError if nothing can be done.

        `on_notice` is told what a new knowledge base got as its embedding model, and why;
        `on_prepare` the progress (a step's name and 0..1) of making a model ready.
        """
        for path in paths:
            if not path.expanduser().exists():
                raise InputError(f"There is no file or folder {str(path)!r}.", "Check the path.")
        known = self._known(knowledge_base)
        plan = plan_files(
            paths,
            indexes=self.settings.indexes,
            max_bytes=self._max_bytes,
            known_name=lambda uri: known[uri].name if uri in known else None,
        )
        return self.ingest_plan(
            plan,
            knowledge_base=knowledge_base,
            tags=tags,
            dry_run=dry_run,
            on_progress=on_progress,
            on_notice=on_notice,
            on_prepare=on_prepare,
        )

    def ingest_uploads(
        self,
        uploads: Sequence[Upload],
        *,
        knowledge_base: str = DEFAULT,
        tags: Sequence[str] | None = None,
    ) -> Report:
        """Adds files that came over the network, replacing those of the same name."""
        sources = [replace(upload, max_bytes=self._max_bytes) for upload in uploads]
        return self.ingest_plan(Plan(sources), knowledge_base=knowledge_base, tags=tags)

    def ingest_plan(
        self,
        plan: Plan,
        *,
        knowledge_base: str = DEFAULT,
        tags: Sequence[str] | None = None,
        dry_run: bool = False,
        on_progress: Callable[[Progress], None] = _nothing,
        on_notice: Callable[[str], None] = _nothing,
        on_prepare: OnPrepare | None = None,
    ) -> Report:
        """Like `ingest`, from any sources."""
        if dry_run and knowledge_base not in self.names():  # looking on makes nothing
            embedder = self._any_embedder()
            return self._ingest(embedder, on_progress).dry_run(plan, {})
        store = self._store(knowledge_base)
        embedder = self._embedder(store, on_notice, on_prepare)
        run = self._ingest(embedder, on_progress)
        if dry_run:
            return run.dry_run(plan, self._known(knowledge_base))
        with self._writing, store.writer(embedder.fingerprint) as writer:
            return run.run(plan, writer, tags=tags)

    def _known(self, name: str) -> dict[str, DocumentInfo]:
        """The documents there are, by uri."""
        self._folder(name)
        if name not in self.names():
            return {}
        return {info.uri: info for info in self._store(name).documents()}

    def _ingest(self, embedder: Embedder, on_progress: Callable[[Progress], None]) -> Ingest:
        return Ingest(
            embedder=embedder,
            splitter=self._splitter(embedder),
            settings_key=LOADER_VERSION,
            on_progress=on_progress,
        )

    def reindex(
        self,
        embedding: str,
        *,
        knowledge_base: str = DEFAULT,
        on_progress: Callable[[Progress], None] = _nothing,
        on_prepare: OnPrepare | None = None,
    ) -> Report:
        """Embeds every document again with another model, from the stored texts, and swaps.

        Questions go on with the old vectors until then. A try that broke off is taken up again.
        Raises EmbedderUnavailableError; the knowledge base then stays as it was.
        """
        store = self.store(knowledge_base)
        with self._lock:
            embedder = open_embedder(embedding, self.settings, on_prepare)
            embedder = self._embedders.setdefault(embedder.fingerprint, embedder)
        run = self._ingest(embedder, on_progress)
        with self._writing, store.writer(embedder.fingerprint, replacing=True) as writer:
            stored = [StoredDocument(info, store.document) for info in store.documents()]
            return run.run(Plan(stored), writer)

    def remove(self, document_ids: Sequence[str], *, knowledge_base: str = DEFAULT) -> list[str]:
        """Removes documents by id or name, all or none; returns their names.

        Raises NotFoundError for one that is not there.
        """
        store = self.store(knowledge_base)
        fingerprint = store.fingerprint
        if fingerprint is None:
            raise NotFoundError(f"The knowledge base {knowledge_base!r} is empty.")
        infos = [self.find(document_id, knowledge_base) for document_id in document_ids]
        with self._writing, store.writer(fingerprint) as writer:
            for info in infos:
                writer.remove(info.uri)
            writer.publish()
        return [info.name for info in infos]

    def find(self, document: str, knowledge_base: str = DEFAULT) -> Document:
        """A document by id or by name. Raises NotFoundError."""
        store = self.store(knowledge_base)
        found = store.documents(Filters(documents=(document,)))
        return store.document(found[0].id if found else document)

    def preview(self, path: Path) -> tuple[Document, list[Chunk]]:
        """What a file would become, with the embedding model a new knowledge base would get."""
        if not path.is_file():
            raise InputError(f"There is no file {str(path)!r}.", "Check the path.")
        content = load(path, max_bytes=self._max_bytes)
        document = Document(
            id="preview",
            uri=f"file:{path}",
            name=path.name,
            type=content.type,
            title=content.title,
            text=content.text,
            elements=content.elements,
            content_hash="",
            size=path.stat().st_size,
        )
        return document, self._splitter(self._any_embedder()).split(document)

    def _any_embedder(self) -> Embedder:
        """The one in use, else the one a new knowledge base would get."""
        with self._lock:
            if not self._embedders:
                embedder = self._choose(self.settings, None, None).embedder
                self._embedders[embedder.fingerprint] = embedder
            return next(iter(self._embedders.values()))

    def _splitter(self, embedder: Embedder) -> Splitter:
        return Splitter(
            embedder.count_tokens,
            size=min(self.settings.chunk_tokens, embedder.max_tokens),
            overlap=self.settings.chunk_overlap,
        )

    @property
    def _max_bytes(self) -> int:
        return self.settings.max_file_mb * 1_000_000

    # --- the way out --------------------------------------------------------------------------

    def retrieve(
        self,
        question: str,
        *,
        knowledge_base: str = DEFAULT,
        top_k: int | None = None,
        filters: Filters = Filters(),
        threshold: float | None = None,
    ) -> list[Hit]:
        return _Following(self, knowledge_base).retrieve(
            _checked(question),
            top_k=top_k or self.settings.top_k,
            filters=filters,
            threshold=threshold,
        )

    def ask(
        self,
        question: str,
        *,
        knowledge_base: str = DEFAULT,
        history: Sequence[Message] = (),
        images: Sequence[Image] = (),
        filters: Filters = Filters(),
        top_k: int | None = None,
        model: str | None = None,
        stream: bool = True,
    ) -> AsyncGenerator[AnswerEvent]:
        """The events of an answer. What is wrong with the question is raised here, before them."""
        chosen = self.model(model)
        if images and (chosen is None or not chosen.vision):
            raise VisionError(
                f"{chosen.name if chosen else EXTRACTIVE} cannot see images.",
                "Choose a model with vision (RAG_MODEL), or set RAG_VISION=true if it has it.",
            )
        base = self.knowledge_base(knowledge_base)
        answerer = Answerer(
            _Following(self, knowledge_base),
            base.extractor,
            chosen,
            max_tokens=self.settings.max_answer_tokens,
            temperature=self.settings.temperature,
        )
        return answerer.answer(
            Question(
                text=_checked(question),
                history=tuple(history),
                images=tuple(images),
                filters=filters,
                top_k=top_k or self.settings.top_k,
                stream=stream,
            )
        )

    def model(self, name: str | None = None) -> ChatModel | None:
        """The chat model of this name, else the configured one; None is the extractive answerer.

        Raises InputError for a name that is not offered, ConfigError if there is no way to it.
        """
        return self._models.get(name or self.settings.model or EXTRACTIVE)

    @property
    def images(self) -> ImageCheck:
        return ImageCheck(
            max_images=self.settings.max_images,
            max_bytes=int(self.settings.max_image_mb * 1_000_000),
            max_pixels=self.settings.max_image_pixels,
        )

    @property
    def sessions(self) -> Sessions:
        with self._lock:
            if self._sessions is None:
                self.settings.indexes.mkdir(parents=True, exist_ok=True)
                self._sessions = Sessions(f"sqlite:///{self.settings.indexes / 'application.db'}")
            return self._sessions


class _Following:
    """Retrieves from a knowledge base, and follows it to another embedding model."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
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
            return self._engine.knowledge_base(self._name).retriever.retrieve(
                question, top_k=top_k, filters=filters, history=history, threshold=threshold
            )

        try:
            return found()
        except FingerprintError:  # it moved between the question's embedding and the search
            return found()


def _checked(question: str) -> str:
    text = question.strip()
    if not text:
        raise InputError("The question is empty.", "Ask something.")
    if len(text) > _MAX_QUESTION:
        raise InputError(
            f"The question has {len(text)} characters; at most {_MAX_QUESTION} are read.",
            "Shorten it.",
        )
    return text
