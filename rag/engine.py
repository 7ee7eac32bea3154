"""The one place where parts are chosen and put together."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rag.answer import SEARCH
from rag.application import ApplicationDatabase
from rag.asking import Asking, Code, Options, checked, keeps
from rag.audit import AuditLog
from rag.bases import DEFAULT, Following, KnowledgeBase, KnowledgeBases, OnPrepare
from rag.bases import ChooseEmbedder as ChooseEmbedder
from rag.cache import AnswerCache, InMemory, InRedis, KeptAnswers, RedisFlights
from rag.config import Settings, secret
from rag.embed import choose_embedder
from rag.errors import InputError, NotFoundError
from rag.files import Upload, plan_files
from rag.gateway import Gateway
from rag.images import ImageCheck
from rag.ingest import Ingest, Plan, Progress, Report, StoredDocument
from rag.keeping import Keeping
from rag.ledger import Ledger
from rag.load import LOADER_VERSION, lacks
from rag.load.limits import Limits
from rag.load.memory import give_back
from rag.load.pool import ReaderPool
from rag.moving import Moving
from rag.origins import Limits as OriginLimits
from rag.origins import is_address, merged, plan_of
from rag.pictures import Pictures
from rag.places import Places
from rag.prompt import Presets
from rag.records import Listener, Record
from rag.redis_link import RedisLink
from rag.reviews import Review, Reviews
from rag.sessions import Sessions
from rag.shared import LocalState, RedisState
from rag.split import Splitter
from rag.stores.managed import ManagedStore
from rag.tools import Tool, calculate, load_tools, query_database
from rag.types import (
    AnswerEvent,
    Chunk,
    Document,
    Embedder,
    Filters,
    Hit,
    Known,
    SharedState,
)


def _nothing(_: object) -> None:
    return None


class Engine:
    """What the command line and the server do, over the knowledge bases in one folder."""

    def __init__(self, settings: Settings, *, choose: ChooseEmbedder = choose_embedder) -> None:
        self.settings = settings
        self._application = ApplicationDatabase(settings.application_url)
        self.bases = KnowledgeBases(settings, Places(settings, self._application), choose=choose)
        self.keeping = Keeping(self.bases)
        self.moving = Moving(self.bases)
        self._limits = Limits.of(settings)
        self._readers = ReaderPool(
            self._limits,
            workers=settings.parse_workers,
            beyond=settings.cache_dir / "unreadable",
        )
        self._lock = threading.RLock()
        self._writing = threading.Lock()  # within this process, writers wait for each other
        self._listeners: list[Listener] = []
        self._audit: AuditLog | None = None
        self.ledger = Ledger(self._application, settings.budgets, listener=self.tell)
        self.sessions = Sessions(self._application)
        self.reviews = Reviews(self._application)
        self.presets = Presets(settings.presets)
        self._tools = _tools(settings)
        url = settings.redis_url
        redis = None if url is None else RedisLink(url.get_secret_value())
        self._state: SharedState = LocalState() if redis is None else RedisState(redis)
        self._cache = _cache(settings, redis, self._tools, self.tell)
        self.gateway = Gateway(settings, ledger=self.ledger, state=self._state, listener=self.tell)
        self._pictures = Pictures(enabled=settings.ocr)
        self._asking = Asking(
            settings,
            self.bases,
            self.gateway,
            presets=self.presets,
            tools=self._tools,
            cache=self._cache,
            pictures=self._pictures,
            reviews=self.reviews,
        )

    @classmethod
    def open(cls, settings: Settings | None = None) -> Engine:
        return cls(settings or Settings.read())

    async def aclose(self) -> None:
        await self.gateway.aclose()
        await self._state.aclose()  # and with it the way to Redis, which is the cache's too
        self.close()

    def close(self) -> None:
        with self._lock:
            self._readers.close()
            self.bases.close()
            self.ledger.close()
            self._application.close()
            if self._audit is not None:
                self._audit.close()
                self._audit = None

    # --- what happens -------------------------------------------------------------------------

    def listen(self, listener: Listener) -> None:
        """Tells it of every record from now on; see rag/records.py."""
        self._listeners.append(listener)

    def tell(self, record: Record) -> None:
        if self.settings.audit:
            self._audit_log().listen(record)
        for listener in self._listeners:
            listener(record)

    def _audit_log(self) -> AuditLog:
        """Opened at the first record, for most commands leave none."""
        with self._lock:
            settings = self.settings
            if self._audit is None:
                self._audit = AuditLog(
                    settings.audit_dir or settings.indexes / "audit",
                    texts=settings.audit_texts,
                    max_mb=settings.audit_mb,
                    days=settings.audit_days,
                )
            return self._audit

    # --- knowledge bases ----------------------------------------------------------------------

    def names(self) -> list[str]:
        """The knowledge bases there are."""
        return self.bases.names()

    def store(self, name: str) -> ManagedStore:
        """Raises NotFoundError if nothing was ever ingested under this name."""
        return self.bases.store(name)

    def knowledge_base(self, name: str = DEFAULT) -> KnowledgeBase:
        """Open for questions. Raises NotFoundError, EmbedderError, FingerprintError."""
        return self.bases.knowledge_base(name)

    def refresh(self) -> None:
        """Lets open knowledge bases see what other processes have published since."""
        self.bases.refresh()

    # --- approval -----------------------------------------------------------------------------

    def decide(self, review_id: str, *, approve: bool, reviewer: str, note: str = "") -> Review:
        """Releases an answer, which becomes a turn of its session, or keeps it back for good.

        Raises NotFoundError, and InputError if that was decided before.
        """
        review = self.reviews.decide(review_id, approve=approve, reviewer=reviewer, note=note)
        if approve and review.session_id:
            text = str(review.answer["answer"])
            self.sessions.add(review.session_id, review.knowledge_base, review.question, text)
        return review

    # --- the way in ---------------------------------------------------------------------------

    def ingest(
        self,
        paths: Sequence[Path | str],
        *,
        knowledge_base: str = DEFAULT,
        tags: Sequence[str] | None = None,
        dry_run: bool = False,
        on_progress: Callable[[Progress], None] = _nothing,
        on_notice: Callable[[str], None] = _nothing,
        on_prepare: OnPrepare | None = None,
    ) -> Report:
        """Brings the knowledge base to what the files, folders and addresses say.

        Raises RagError if nothing can be done.

        `on_notice` is told what a new knowledge base got as its embedding model, and why;
        `on_prepare` the progress (a step's name and 0..1) of making a model ready.
        """
        files = [Path(path) for path in paths if not is_address(str(path))]
        for path in files:
            if not path.expanduser().exists():
                raise InputError(f"There is no file or folder {str(path)!r}.", "Check the path.")
        known = self._known(knowledge_base)
        plans = [
            plan_of(
                str(path),
                cache=self.settings.cache_dir,
                max_bytes=self._max_bytes,
                loads=self._readers.load,
                limits=OriginLimits(max_documents=self.settings.max_documents),
                allowed_hosts=self.settings.allowed_hosts,
                on_notice=on_notice,
            )
            for path in paths
            if is_address(str(path))
        ]
        if files:
            plans.append(
                plan_files(
                    files,
                    indexes=self.settings.indexes,
                    max_bytes=self._max_bytes,
                    known=known,
                    loads=self._readers.load,
                    follow_links=self.settings.follow_links,
                )
            )
        plan = merged(plans)
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
        sources = [
            replace(upload, max_bytes=self._max_bytes, loads=self._readers.load)
            for upload in uploads
        ]
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
            embedder = self.bases.any_embedder()
            return self._ingest(embedder, on_progress).dry_run(plan, None)
        store = self.bases.open_store(knowledge_base)
        embedder = self.bases.embedder(store, on_notice, on_prepare)
        run = self._ingest(embedder, on_progress)
        if dry_run:
            return run.dry_run(plan, self._known(knowledge_base))
        try:
            with self._writing, self.bases.writer(knowledge_base, embedder.fingerprint) as writer:
                return run.run(plan, writer, tags=tags)
        finally:
            give_back()

    def _known(self, name: str) -> Known | None:
        """The documents there are; None where there is no knowledge base yet."""
        if self.bases.places.place(name) is None:
            return None
        return self.bases.open_store(name).known()

    def _ingest(self, embedder: Embedder, on_progress: Callable[[Progress], None]) -> Ingest:
        return Ingest(
            embedder=embedder,
            splitter=self._splitter(embedder),
            settings_key=LOADER_VERSION,
            lacks=lacks(self._limits),
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
        embedder = self.bases.named_embedder(embedding, on_prepare)
        run = self._ingest(embedder, on_progress)
        fingerprint = embedder.fingerprint
        with (
            self._writing,
            self.bases.writer(knowledge_base, fingerprint, replacing=True) as writer,
        ):
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
        with self._writing, self.bases.writer(knowledge_base, fingerprint) as writer:
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
        content = self._readers.load(path, max_bytes=self._max_bytes)
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
        return document, self._splitter(self.bases.any_embedder()).split(document)

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
        return Following(self.bases, knowledge_base).retrieve(
            checked(question),
            top_k=top_k or self.settings.top_k,
            filters=filters,
            threshold=threshold,
        )

    def ask(self, question: str, **options: Any) -> AsyncGenerator[AnswerEvent]:
        """The events of an answer; `options` are those of `rag.asking.Options`.

        What is wrong with the question is raised here, before them.
        """
        return self._asking.ask(question, Options(**options))

    def complete(self, code: Code, **options: Any) -> AsyncGenerator[AnswerEvent]:
        """The events of the text that belongs at the cursor."""
        return self._asking.complete(code, Options(**options))

    @property
    def tools(self) -> list[str]:
        """The names of those a question may ask for."""
        return sorted([*self._tools, SEARCH])

    @property
    def reads_images(self) -> bool:
        """The text in pictures can be read here, whether or not the model sees."""
        return self._pictures.can_read

    @property
    def images(self) -> ImageCheck:
        return ImageCheck(
            max_images=self.settings.max_images,
            max_bytes=int(self.settings.max_image_mb * 1_000_000),
            max_pixels=self.settings.max_image_pixels,
        )


def _tools(settings: Settings) -> dict[str, Tool]:
    """Ours, then the operator's, which may replace ours."""
    tools = [calculate]
    if settings.databases:
        tools.append(query_database(settings.databases, secret))
    for module in settings.tool_modules:
        tools += load_tools(module)
    return {tool.spec.name: tool for tool in tools}


def _cache(
    settings: Settings, redis: RedisLink | None, tools: Mapping[str, Tool], listener: Listener
) -> AnswerCache:
    kept: KeptAnswers
    if redis is None:
        kept, flights = InMemory(settings.cache_entries), None
    else:
        kept, flights = InRedis(redis), RedisFlights(redis)
    return AnswerCache(
        kept,
        ttl=settings.cache_ttl,
        refusal_ttl=settings.cache_refusal_ttl,
        flights=flights,
        keep=keeps(tools),
        listener=listener,
    )
