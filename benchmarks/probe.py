"""A process of its own, for figures that need one: `python -m benchmarks.probe open|add FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import faiss
import numpy as np
import tantivy  # noqa: F401 - imported before the clock starts

from benchmarks.corpus import made_up
from benchmarks.report import resident_mb, watched
from rag.stores.embedded import EmbeddedStore
from rag.types import Chunk, Document, Element

TOKEN = "benchmarkaddition"
_CHUNKS = 10
_URI = "bench:added:"


def main() -> None:
    action, folder, *rest = sys.argv[1:]
    faiss.IndexFlatIP(8).add(np.ones((1, 8), np.float32))
    before = resident_mb()
    with watched() as watch:
        store = EmbeddedStore(Path(folder))
        if action == "add":
            add_file(store, rest[0])
        else:
            store.refresh()
            store.search("a question", _vectors("a question")[0], limit=50)
    print(json.dumps({"seconds": watch.seconds, "mb": resident_mb() - before}))
    store.close()


def add_file(store: EmbeddedStore, name: str) -> None:
    """Written and published; the caches follow with the next refresh."""
    passages = [f"{TOKEN} {made_up(place)}" for place in range(_CHUNKS)]
    text, chunks = "", []
    for place, passage in enumerate(passages):
        chunks.append(
            Chunk(
                document_id=name,
                ordinal=place,
                start=len(text),
                end=len(text) + len(passage),
                text=passage,
            )
        )
        text += passage + "\n"
    document = Document(
        id=name,
        uri=_URI + name,
        name=name,
        type="txt",
        title="",
        text=text,
        elements=(Element("text", 0, len(text)),),
        content_hash=name,
    )
    fingerprint = store.fingerprint
    assert fingerprint is not None
    with store.writer(fingerprint) as writer:
        writer.put(document, chunks, _vectors(name, _CHUNKS))
        writer.publish()


def remove_file(store: EmbeddedStore, name: str) -> None:
    """What `add_file` added; gone from the indexes and deleted afterwards."""
    fingerprint = store.fingerprint
    assert fingerprint is not None
    with store.writer(fingerprint) as writer:
        writer.remove(_URI + name)
        writer.publish()


def remove_files(store: EmbeddedStore) -> None:
    fingerprint = store.fingerprint
    assert fingerprint is not None
    with store.writer(fingerprint) as writer:
        for uri in list(writer.known().below(_URI)):
            writer.remove(uri)
        writer.publish()


def _vectors(seed: str, count: int = 1, dimension: int = 384) -> np.ndarray:
    generator = np.random.default_rng(list(seed.encode()))
    vectors = generator.standard_normal((count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
