"""One run: a thread reads and splits, the caller's embeds and stores."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from rag.errors import LoadError, NoTextError, RagError
from rag.ingest.handover import Handover, Prepared
from rag.ingest.plan import Plan, Source, StoredDocument, vanished, with_known
from rag.ingest.report import Progress, Report, failure
from rag.types import Chunk, Document, DocumentInfo, Embedder, StoreWriter

if TYPE_CHECKING:
    from rag.types import Matrix, Vector

_BATCH_CHUNKS = 256
_SLICE_CHUNKS = 64


class Splits(Protocol):
    """What ingest needs of a splitter."""

    @property
    def settings(self) -> str: ...

    def split(self, document: Document) -> list[Chunk]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a run works with. `settings` tells what readers and splitter do, `lacks` what readers
    cannot do here."""

    embedder: Embedder
    splitter: Splits
    settings: str
    lacks: str
    on_progress: Callable[[Progress], None]
    clock: Callable[[], float]

    def settings_hash(self, lacking: str) -> str:
        """Of a document that was read as far as it can be, `lacking` something."""
        return sha256(f"{self.settings}|{lacking}".encode()) if lacking else self.settings

    @property
    def settings_hashes(self) -> set[str]:
        """Those of documents that would not become anything else if they were read again."""
        return {self.settings_hash(""), self.settings_hash(self.lacks)}


class Run:
    """The state of one run: a thread reads and splits, the caller's embeds and stores."""

    def __init__(
        self, parts: Parts, plan: Plan, writer: StoreWriter, tags: tuple[str, ...] | None
    ) -> None:
        self._parts = parts
        self._plan = plan
        self._writer = writer
        self._tags = tags
        self._known = writer.known()
        self._report = Report(skipped=list(plan.skipped), notes=list(plan.notes))
        self._ready = Handover()
        self._digests: set[str] = set()
        self._files_done = 0
        self._chunks_found = 0
        self._chunks_done = 0
        self._started = parts.clock()
        self._telling = threading.Lock()  # both threads count, and progress never goes back

    def execute(self) -> Report:
        reader = threading.Thread(target=self._read_all, name="ingest-reader", daemon=True)
        reader.start()
        try:
            for batch in self._batches():
                self._store(batch)
        finally:
            self._ready.close()
            reader.join()
        self._remove_vanished()
        self._report.generation = self._writer.publish()
        self._report.seconds = self._parts.clock() - self._started
        self._tell()
        return self._report

    # --- the reading thread -------------------------------------------------------------------

    def _read_all(self) -> None:
        try:
            for source, before in with_known(self._plan.sources, self._known):
                if self._ready.is_closed:
                    return
                self._read_one(source, before)
            self._ready.close()
        except RagError as error:
            self._ready.close(error)
        except Exception as error:  # noqa: BLE001 - a bug here must end the run, not hang it
            self._ready.close(RagError(f"Reading stopped: {type(error).__name__}: {error}."))

    def _read_one(self, source: Source | StoredDocument, before: DocumentInfo | None) -> None:
        try:
            if isinstance(source, StoredDocument):
                prepared = self._prepare_stored(source, before)
            else:
                prepared = self._prepare(source, before)
        except NoTextError as error:
            self._report.skipped.append(failure(source.name, error))
            prepared = None
        except LoadError as error:
            self._report.failed.append(failure(source.name, error))
            prepared = None
        if prepared is None:
            self._tell(files=1)
        else:
            self._tell(found=len(prepared.chunks))
            self._ready.put(prepared)

    def _prepare(self, source: Source, before: DocumentInfo | None) -> Prepared | None:
        """None if the stored document is what the source would become."""
        data = source.read()
        digest = sha256(data)
        self._digests.add(digest)
        tags = self._tags if self._tags is not None else (before.tags if before else ())
        if (
            before is not None
            and (before.content_hash, before.tags) == (digest, tags)
            and before.settings_hash in self._parts.settings_hashes
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
            settings_hash=self._parts.settings_hash(content.lacking),
            size=len(data),
            tags=tags,
        )
        return Prepared(document, self._parts.splitter.split(document), before is None)

    def _prepare_stored(
        self, stored: StoredDocument, before: DocumentInfo | None
    ) -> Prepared | None:
        """None if an earlier try had finished it."""
        info = stored.info
        settings_hash = self._parts.settings_hash("")
        if info.settings_hash in self._parts.settings_hashes:
            settings_hash = info.settings_hash  # what it lacks, it will still lack
        if before is not None and (before.content_hash, before.settings_hash, before.tags) == (
            info.content_hash,
            settings_hash,
            info.tags,
        ):
            self._report.unchanged.append(info.name)
            return None
        document = replace(stored.fetch(info.id), settings_hash=settings_hash)
        return Prepared(document, self._parts.splitter.split(document), before is None)

    # --- the embedding side -------------------------------------------------------------------

    def _batches(self) -> Iterator[list[Prepared]]:
        """Documents as they come, together enough chunks to keep all cores busy."""
        batch: list[Prepared] = []
        while (prepared := self._ready.take()) is not None:
            batch.append(prepared)
            chunks = sum(len(p.chunks) for p in batch)
            if chunks >= (_SLICE_CHUNKS if self._ready.is_empty else _BATCH_CHUNKS):
                yield batch
                batch = []
        if batch:
            yield batch

    def _store(self, batch: Sequence[Prepared]) -> None:
        texts = [c.embedded_text for p in batch for c in p.chunks]
        vectors = dict(self._writer.vectors(list(dict.fromkeys(texts))))
        try:
            self._embed(texts, vectors)
        finally:  # what is embedded is kept, even when the embedder broke down over the rest
            for prepared in batch:
                if all(chunk.embedded_text in vectors for chunk in prepared.chunks):
                    self._put(prepared, vectors)

    def _put(self, prepared: Prepared, vectors: Mapping[str, Vector]) -> None:
        document, chunks = prepared.document, prepared.chunks
        self._writer.put(document, chunks, self._rows(chunks, vectors))
        list_ = self._report.added if prepared.is_new else self._report.changed
        list_.append(document.name)
        self._report.chunks += len(chunks)
        self._tell(files=1)

    def _embed(self, texts: Sequence[str], vectors: dict[str, Vector]) -> None:
        """Completes `vectors`; equal texts are embedded once, stored ones not at all."""
        missing = [text for text in dict.fromkeys(texts) if text not in vectors]
        self._tell(done=len(texts) - len(missing))
        for start in range(0, len(missing), _SLICE_CHUNKS):
            part = missing[start : start + _SLICE_CHUNKS]
            vectors.update(zip(part, self._parts.embedder.embed_documents(part), strict=True))
            self._report.embedded += len(part)
            self._tell(done=len(part))

    def _rows(self, chunks: Sequence[Chunk], vectors: Mapping[str, Vector]) -> Matrix:
        import numpy as np

        dimension = self._parts.embedder.fingerprint.dimension
        rows = [vectors[c.embedded_text] for c in chunks]
        return np.array(rows, np.float32).reshape(len(rows), dimension)

    def _remove_vanished(self) -> None:
        for info in vanished(self._plan, self._known, self._digests):
            self._writer.remove(info.uri)
            self._report.removed.append(info.name)

    def _tell(self, *, files: int = 0, found: int = 0, done: int = 0) -> None:
        with self._telling:
            self._files_done += files
            self._chunks_found += found
            self._chunks_done += done
            self._parts.on_progress(
                Progress(
                    files_done=self._files_done,
                    files=len(self._plan.sources),
                    chunks_done=self._chunks_done,
                    chunks_found=self._chunks_found,
                    seconds=self._parts.clock() - self._started,
                )
            )


def document_id(uri: str) -> str:
    """16 hex digits, the same for the same uri."""
    return sha256(uri.encode())[:16]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
