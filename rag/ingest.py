"""The way in: load, split, embed and store, only for what changed.

One run is one generation: readers see nothing of it before it is published. What a run that died
had finished is found again by the next one.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from rag.errors import LoadError, NoTextError, RagError
from rag.types import Chunk, Content, Document, DocumentInfo, Embedder, StoreWriter

if TYPE_CHECKING:
    from rag.types import Matrix, Vector

_QUEUED_DOCUMENTS = 64
_BATCH_CHUNKS = 256
_SLICE_CHUNKS = 64


class Source(Protocol):
    """Something that becomes one document."""

    @property
    def uri(self) -> str: ...

    @property
    def name(self) -> str: ...

    def read(self) -> bytes:
        """Raises LoadError."""
        ...

    def load(self, data: bytes) -> Content:
        """Raises LoadError."""
        ...


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document of a knowledge base, to be split and embedded anew from its stored text."""

    info: DocumentInfo
    fetch: Callable[[str], Document]

    @property
    def uri(self) -> str:
        return self.info.uri

    @property
    def name(self) -> str:
        return self.info.name


class Splits(Protocol):
    """What ingest needs of a splitter."""

    @property
    def settings(self) -> str: ...

    def split(self, document: Document) -> list[Chunk]: ...


@dataclass(frozen=True, slots=True)
class Failure:
    name: str
    code: str
    reason: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is. `chunks_found` grows while files are still being read."""

    files_done: int
    files: int
    chunks_done: int
    chunks_found: int
    seconds: float


@dataclass(slots=True)
class Report:
    """What one run did. Names are documents' names, in the order they were met."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    skipped: list[Failure] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    chunks: int = 0
    embedded: int = 0
    generation: int = 0
    seconds: float = 0.0
    dry_run: bool = False

    @property
    def exit_code(self) -> int:
        """0; 3 if some files failed; 1 if nothing could be done."""
        if not self.failed:
            return 0
        return 3 if self.added or self.changed or self.unchanged or self.removed else 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be read, and which known documents are gone if they are not among it."""

    sources: Sequence[Source | StoredDocument]
    covers: Callable[[str], bool] = lambda _uri: False
    is_gone: Callable[[str], bool] = lambda _uri: False
    skipped: Sequence[Failure] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Prepared:
    document: Document
    chunks: list[Chunk]


class Ingest:
    """One run over a plan. Several runs of one knowledge base exclude each other by the writer."""

    def __init__(
        self,
        *,
        embedder: Embedder,
        splitter: Splits,
        settings_key: str,
        lacks: str = "",
        on_progress: Callable[[Progress], None] = lambda _progress: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._embedder = embedder
        self._splitter = splitter
        self._settings_hash = _sha256(f"{settings_key}|{splitter.settings}".encode())
        self._lacks = lacks
        self._on_progress = on_progress
        self._clock = clock

    def settings_hash(self, lacking: str) -> str:
        """Of a document that was read as far as it can be, `lacking` something."""
        return (
            _sha256(f"{self._settings_hash}|{lacking}".encode()) if lacking else self._settings_hash
        )

    @property
    def settings_hashes(self) -> set[str]:
        """Those of documents that would not become anything else if they were read again."""
        return {self.settings_hash(""), self.settings_hash(self._lacks)}

    def run(self, plan: Plan, writer: StoreWriter, *, tags: Sequence[str] | None = None) -> Report:
        """Brings the knowledge base to what the plan's sources say now, and publishes it.

        A source that cannot be read is reported and leaves its document as it was. Raises
        EmbedderError or StoreError, with what was finished so far kept for the next run.
        """
        run = _Run(self, plan, writer, None if tags is None else tuple(sorted(set(tags))))
        return run.execute()

    def dry_run(self, plan: Plan, known: Mapping[str, DocumentInfo]) -> Report:
        """What `run` would do, by content alone: files are read and hashed, not parsed."""
        report = Report(skipped=list(plan.skipped), notes=list(plan.notes), dry_run=True)
        digests: set[str] = set()
        for source in plan.sources:
            if isinstance(source, StoredDocument):
                continue
            try:
                before = known.get(source.uri)
                digest = _sha256(source.read())
            except LoadError as error:
                report.failed.append(_failure(source.name, error))
                continue
            if before is None:
                report.added.append(source.name)
            elif before.content_hash == digest and before.settings_hash in self.settings_hashes:
                report.unchanged.append(source.name)
            else:
                report.changed.append(source.name)
            digests.add(digest)
        report.removed = [known[uri].name for uri in vanished(plan, known, digests)]
        return report


class _Run:
    """The state of one run: a thread reads and splits, the caller's embeds and stores."""

    def __init__(
        self, ingest: Ingest, plan: Plan, writer: StoreWriter, tags: tuple[str, ...] | None
    ) -> None:
        self._ingest = ingest
        self._plan = plan
        self._writer = writer
        self._tags = tags
        self._known = dict(writer.known())
        self._report = Report(skipped=list(plan.skipped), notes=list(plan.notes))
        self._ready: queue.Queue[_Prepared | RagError | None] = queue.Queue(_QUEUED_DOCUMENTS)
        self._stopped = threading.Event()
        self._digests: set[str] = set()
        self._files_done = 0
        self._chunks_found = 0
        self._chunks_done = 0
        self._started = ingest._clock()
        self._telling = threading.Lock()  # both threads count, and progress never goes back

    def execute(self) -> Report:
        reader = threading.Thread(target=self._read_all, name="ingest-reader", daemon=True)
        reader.start()
        try:
            for batch in self._batches():
                self._store(batch)
        finally:
            self._stopped.set()
            reader.join()
        self._remove_vanished()
        self._report.generation = self._writer.publish()
        self._report.seconds = self._ingest._clock() - self._started
        self._tell()
        return self._report

    # --- the reading thread -------------------------------------------------------------------

    def _read_all(self) -> None:
        try:
            for source in self._plan.sources:
                if self._stopped.is_set():
                    return
                self._read_one(source)
            self._hand_over(None)
        except Exception as error:  # noqa: BLE001 - a bug here must end the run, not hang it
            self._hand_over(
                error
                if isinstance(error, RagError)
                else RagError(f"Reading stopped: {type(error).__name__}: {error}.")
            )

    def _read_one(self, source: Source | StoredDocument) -> None:
        try:
            if isinstance(source, StoredDocument):
                prepared = self._prepare_stored(source)
            else:
                prepared = self._prepare(source)
        except NoTextError as error:
            self._report.skipped.append(_failure(source.name, error))
            prepared = None
        except LoadError as error:
            self._report.failed.append(_failure(source.name, error))
            prepared = None
        if prepared is None:
            self._tell(files=1)
        else:
            self._tell(found=len(prepared.chunks))
            self._hand_over(prepared)

    def _prepare(self, source: Source) -> _Prepared | None:
        """None if the stored document is what the source would become."""
        data = source.read()
        digest = _sha256(data)
        self._digests.add(digest)
        before = self._known.get(source.uri)
        tags = self._tags if self._tags is not None else (before.tags if before else ())
        if (
            before is not None
            and (before.content_hash, before.tags) == (digest, tags)
            and before.settings_hash in self._ingest.settings_hashes
        ):
            self._report.unchanged.append(before.name)
            return None
        content = source.load(data)
        self._report.notes += [f"{source.name}: {note}" for note in content.notes]
        document = Document(
            id=document_id(source.uri),
            uri=source.uri,
            name=source.name,
            type=content.type,
            title=content.title,
            text=content.text,
            elements=content.elements,
            content_hash=digest,
            settings_hash=self._ingest.settings_hash(content.lacking),
            size=len(data),
            tags=tags,
        )
        return _Prepared(document, self._ingest._splitter.split(document))

    def _prepare_stored(self, stored: StoredDocument) -> _Prepared | None:
        """None if an earlier try had finished it."""
        info = stored.info
        settings_hash = self._ingest.settings_hash("")
        if info.settings_hash in self._ingest.settings_hashes:
            settings_hash = info.settings_hash  # what it lacks, it will still lack
        before = self._known.get(info.uri)
        if before is not None and (before.content_hash, before.settings_hash, before.tags) == (
            info.content_hash,
            settings_hash,
            info.tags,
        ):
            self._report.unchanged.append(info.name)
            return None
        document = replace(stored.fetch(info.id), settings_hash=settings_hash)
        return _Prepared(document, self._ingest._splitter.split(document))

    def _hand_over(self, item: _Prepared | RagError | None) -> None:
        while not self._stopped.is_set():
            try:
                self._ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return

    # --- the embedding side -------------------------------------------------------------------

    def _batches(self) -> Iterator[list[_Prepared]]:
        """Documents as they come, together enough chunks to keep all cores busy."""
        batch: list[_Prepared] = []
        while (item := self._ready.get()) is not None:
            if isinstance(item, RagError):
                raise item
            batch.append(item)
            chunks = sum(len(p.chunks) for p in batch)
            if chunks >= (_SLICE_CHUNKS if self._ready.empty() else _BATCH_CHUNKS):
                yield batch
                batch = []
        if batch:
            yield batch

    def _store(self, batch: Sequence[_Prepared]) -> None:
        texts = [c.embedded_text for p in batch for c in p.chunks]
        vectors = dict(self._writer.vectors(list(dict.fromkeys(texts))))
        try:
            self._embed(texts, vectors)
        finally:  # what is embedded is kept, even when the embedder broke down over the rest
            for prepared in batch:
                if all(chunk.embedded_text in vectors for chunk in prepared.chunks):
                    self._put(prepared, vectors)

    def _put(self, prepared: _Prepared, vectors: Mapping[str, Vector]) -> None:
        document, chunks = prepared.document, prepared.chunks
        self._writer.put(document, chunks, self._rows(chunks, vectors))
        list_ = self._report.changed if document.uri in self._known else self._report.added
        list_.append(document.name)
        self._report.chunks += len(chunks)
        self._tell(files=1)

    def _embed(self, texts: Sequence[str], vectors: dict[str, Vector]) -> None:
        """Completes `vectors`; equal texts are embedded once, stored ones not at all."""
        missing = [text for text in dict.fromkeys(texts) if text not in vectors]
        self._tell(done=len(texts) - len(missing))
        for start in range(0, len(missing), _SLICE_CHUNKS):
            part = missing[start : start + _SLICE_CHUNKS]
            vectors.update(zip(part, self._ingest._embedder.embed_documents(part), strict=True))
            self._report.embedded += len(part)
            self._tell(done=len(part))

    def _rows(self, chunks: Sequence[Chunk], vectors: Mapping[str, Vector]) -> Matrix:
        import numpy as np

        dimension = self._ingest._embedder.fingerprint.dimension
        rows = [vectors[c.embedded_text] for c in chunks]
        return np.array(rows, np.float32).reshape(len(rows), dimension)

    def _remove_vanished(self) -> None:
        for uri in vanished(self._plan, self._known, self._digests):
            self._writer.remove(uri)
            self._report.removed.append(self._known[uri].name)

    def _tell(self, *, files: int = 0, found: int = 0, done: int = 0) -> None:
        with self._telling:
            self._files_done += files
            self._chunks_found += found
            self._chunks_done += done
            self._ingest._on_progress(
                Progress(
                    files_done=self._files_done,
                    files=len(self._plan.sources),
                    chunks_done=self._chunks_done,
                    chunks_found=self._chunks_found,
                    seconds=self._ingest._clock() - self._started,
                )
            )


def vanished(plan: Plan, known: Mapping[str, DocumentInfo], digests: AbstractSet[str]) -> list[str]:
    """Known documents to remove: covered by the plan but not found, or moved to where it looked.

    `digests` are the content hashes of what was read. A skipped file keeps its document.
    """
    present = {source.uri for source in plan.sources}
    skipped = {failure.name for failure in plan.skipped}
    absent = [(u, i) for u, i in known.items() if u not in present and i.name not in skipped]
    return [
        uri
        for uri, info in absent
        if plan.covers(uri) or (info.content_hash in digests and plan.is_gone(uri))
    ]


def document_id(uri: str) -> str:
    """16 hex digits, the same for the same uri."""
    return _sha256(uri.encode())[:16]


def _failure(name: str, error: LoadError) -> Failure:
    return Failure(name, error.code, error.message, error.hint)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
