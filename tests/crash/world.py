"""Two states of a folder of documents, their ingest, and what a knowledge base of them must show.

As a script: `python -m tests.crash.world PLACE STATE SIZE [ahead]` ingests, and ends with 9 and a
line of words if that fails as it should. `ahead`: the vector index is made before publishing, which
otherwise only much that is new is worth.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag.errors import RagError
from rag.ingest import Covers, Ingest, Plan, Report
from rag.stores.embedded import EmbeddedStore, ahead
from rag.stores.embedded.verify import verify
from rag.types import Chunk, Content, Document, Element, StoreWriter
from tests.fakes import FakeEmbedder

PUBLISHED = "/the-generation-is-published"  # opened in vain: a mark in the trace
QUESTIONS = ("zebra 年假", "hotel costs 3", "病假 laptop")
_WORDS = ("年假", "hotel", "costs", "zebra", "病假", "laptop", "budget", "travel")
_ALL = 1_000


@dataclass(frozen=True)
class Written:
    """A source in memory."""

    uri: str
    name: str
    text: str

    def read(self) -> bytes:
        return self.text.encode()

    def load(self, data: bytes) -> Content:
        text = data.decode()
        return Content(
            type="txt", title=self.name, text=text, elements=(Element("text", 0, len(text)),)
        )


class Paragraphs:
    settings = "paragraphs"

    def split(self, document: Document) -> list[Chunk]:
        chunks, start = [], 0
        for ordinal, text in enumerate(document.text.split("\n")):
            chunks.append(
                Chunk(
                    document_id=document.id,
                    ordinal=ordinal,
                    start=start,
                    end=start + len(text),
                    text=text,
                    context=document.title,
                )
            )
            start += len(text) + 1
        return chunks


def documents(state: str, size: int) -> list[Written]:
    """State "a", and "b" in which a third has changed, a sixth has gone and a third is new."""
    if state == "a":
        return [_document(n, "a") for n in range(size)]
    kept = [_document(n, "b" if n % 3 == 0 else "a") for n in range(size) if n % 6 != 1]
    return kept + [_document(n, "b") for n in range(size, size + size // 3)]


def _document(number: int, version: str) -> Written:
    lines = [
        f"{_WORDS[(number + k) % 8]} {_WORDS[(number * k) % 8]} {number} {k} {version if k else ''}"
        for k in range(2 + number % 4)
    ]
    return Written(f"file:{number}", f"{number}.txt", "\n".join(lines))


class _Marking:
    """A writer that leaves a mark in a trace when its generation is published."""

    def __init__(self, writer: StoreWriter) -> None:
        self._writer = writer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def publish(self) -> int:
        generation = self._writer.publish()
        with suppress(FileNotFoundError):
            os.close(os.open(PUBLISHED, os.O_RDONLY))
        return generation


def ingest(place: Path, state: str, size: int, *, keep: int = 0) -> tuple[Report, int]:
    """The report, and how many texts were embedded."""
    embedder = FakeEmbedder(dimension=16)
    store = EmbeddedStore(place, keep_generations=keep)
    try:
        with store.writer(embedder.fingerprint) as writer:
            run = Ingest(embedder=embedder, splitter=Paragraphs(), settings_key="")
            plan = Plan(documents(state, size), covers=Covers(("",)))
            report = run.run(plan, _Marking(writer))  # type: ignore[arg-type]
    finally:
        store.close()
    return report, embedder.texts


Shown = dict[str, Any]


def shown(store: EmbeddedStore) -> Shown:
    """Everything that a reader can see, without what depends on the way there: row numbers, times,
    and BM25, which counts what was removed since tantivy last merged."""
    store.refresh()
    found: Shown = {"documents": [], "chunks": [], "searches": []}
    for info in store.documents():
        document = store.document(info.id)
        found["documents"].append([info.name, info.uri, info.content_hash, document.text])
        found["chunks"] += [
            [info.name, c.ordinal, c.start, c.end, c.text] for c in store.chunks(info.id)
        ]
    found["searches"] = searches(store)
    for key in ("documents", "chunks"):
        found[key].sort()
    return found


def searches(store: EmbeddedStore) -> list[Any]:
    embedder = FakeEmbedder(dimension=16)
    found = []
    for question in QUESTIONS:
        vector = embedder.embed_query(question)
        while True:
            hits = store.search(question, vector, limit=_ALL)
            named = store.fetch([hit.chunk_id for hit in hits])
            if len(named) == len(hits):  # else a publish came between: the retriever asks again
                break
            store.refresh()
        found.append(
            sorted(
                [n[1], n[0].ordinal, round(h.dense, 4), round(h.share, 4), h.via]
                for h in hits
                for n in [named[h.chunk_id]]
            )
        )
    return found


def contents(place: Path) -> Shown:
    store = EmbeddedStore(place)
    try:
        return shown(store)
    finally:
        store.close()


def problems_after(place: Path, size: int, before: Sequence[Shown], after: Shown) -> list[str]:
    """What is wrong with a knowledge base whose ingest of state "b" broke off: it must show one of
    `before` as it is, and exactly `after` when the ingest was run again."""
    try:
        found = contents(place)
        if found not in before:
            return [f"neither before nor after: {difference(found, before[0])}"]
        ingest(place, "b", size)
        wrong = [f.what for f in verify(place).findings]
        now = contents(place)
        return wrong if now == after else [*wrong, f"not as clean: {difference(now, after)}"]
    except RagError as error:
        return [f"{type(error).__name__}: {error}"]


def difference(found: Shown, wanted: Shown) -> str:
    parts = []
    for key in wanted:
        missing = [x for x in wanted[key] if x not in found[key]]
        extra = [x for x in found[key] if x not in wanted[key]]
        if missing or extra or len(found[key]) != len(wanted[key]):
            parts.append(f"{key}: missing {missing[:2]}, extra {extra[:2]}")
    return "; ".join(parts)[:600]


if __name__ == "__main__":
    if sys.argv[4:] == ["ahead"]:
        ahead.MAX_DELTA = 0
    try:
        ingest(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    except RagError as error:
        os.writev(2, [f"{error.code}: {error}\n".encode()])  # `write` may be made to fail
        os._exit(9)
    except BaseException:
        os.writev(2, [traceback.format_exc().encode()])
        raise
