"""What the ingest adds to embedding: files on disk -> published store, over the bare embedder."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.corpus import texts
from benchmarks.options import Options
from benchmarks.report import figure, note, p50, title, watched
from benchmarks.vectors import LookUp, embedder
from rag.config import Settings
from rag.embed import Choice
from rag.engine import Engine

if TYPE_CHECKING:
    from rag.types import Matrix

_FILES = 80  # a round
_PASSAGES = 2  # a file


def run(options: Options) -> None:
    """Each round ingests files nobody has seen, and embeds the same chunks bare, just before or
    just after, so that what else the machine does hits both alike."""
    title("Ingest beside the bare embedder (bundled model)")
    ratios, chunks, whole, bare = [], 0, 0.0, 0.0
    _round(options, -1)  # imports, model, threads
    for place in range(options.rounds):
        count, ingesting, embedding = _round(options, place)
        note(f"round {place + 1}: {count} chunks, {ingesting:.2f} s, bare {embedding:.2f} s")
        ratios.append(embedding / ingesting)
        chunks, whole, bare = chunks + count, whole + ingesting, bare + embedding
    figure("ingest", chunks / whole, "chunks/s")
    figure("bare embedder, same texts", chunks / bare, "chunks/s")
    figure("ingest over bare embedder, all rounds", bare / whole, "", ">= 0.9")
    figure("ingest over bare embedder, median round", p50(ratios))


class _Recording(LookUp):
    """The bundled embedder, with what it was given to embed."""

    def __init__(self) -> None:
        super().__init__(embedder(), {})
        self.given: list[str] = []
        self._lock = threading.Lock()

    def embed_documents(self, texts: Sequence[str]) -> Matrix:
        with self._lock:
            self.given += texts
        return super().embed_documents(texts)


def _round(options: Options, place: int) -> tuple[int, float, float]:
    """Chunks, seconds of the ingest, seconds of the bare embedder."""
    folder = _files(options, place)
    recording = _Recording()
    settings = Settings.read(indexes=options.work / f"ingest-{place}")
    engine = Engine(settings, choose=lambda *_: Choice(recording, "benchmark"))
    with watched() as ingesting:
        report = engine.ingest([folder])
    engine.close()
    with watched() as embedding:
        embedder().embed_documents(recording.given)
    return report.chunks, ingesting.seconds, embedding.seconds


def _files(options: Options, place: int) -> Path:
    folder = options.work / f"files-{place}"
    folder.mkdir()
    count = _FILES * _PASSAGES
    passages = texts(options, (place + 2) * count)[-count:]
    for number in range(_FILES):
        own = passages[number * _PASSAGES : (number + 1) * _PASSAGES]
        text = f"# Document {number}\n\n" + "\n\n".join(own) + "\n"
        (folder / f"{number}.md").write_text(text, encoding="utf-8")
    return folder
