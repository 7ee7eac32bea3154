"""Knowledge bases of a wanted size, built once a run."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from benchmarks.corpus import texts
from benchmarks.options import Options
from benchmarks.report import note, watched
from benchmarks.vectors import embedder, passage_vectors
from rag.stores.embedded import EmbeddedStore
from rag.types import Chunk, Document, Element


@cache
def built(options: Options, count: int, below: Path | None = None) -> Path:
    """The folder of a knowledge base of `count` documents of one chunk each, up to date."""
    folder = (below or options.work) / "indexes" / f"size-{count}"
    passages, vectors = texts(options, count), passage_vectors(options, count)
    store = EmbeddedStore(folder)
    with watched() as writing, store.writer(embedder().fingerprint) as writer:
        for place, text in enumerate(passages):
            document, chunk = one_chunk(place, text)
            writer.put(document, [chunk], vectors[place : place + 1])
        writer.publish()
    store.close()
    note(f"{count:,} chunks: written and indexed in {writing.seconds:.1f} s")
    return folder


def one_chunk(place: int, text: str) -> tuple[Document, Chunk]:
    document = Document(
        id=f"{place:016x}",
        uri=f"bench:{place}",
        name=f"{place}.txt",
        type="txt",
        title="",
        text=text,
        elements=(Element("text", 0, len(text)),),
        content_hash=f"{place}",
    )
    return document, Chunk(document_id=document.id, ordinal=0, start=0, end=len(text), text=text)
