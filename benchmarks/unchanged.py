"""A second ingest that finds nothing to do."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.corpus import made_up
from benchmarks.options import Options
from benchmarks.report import each, figure, p50, title, watched
from rag.config import Settings
from rag.embed import Choice
from rag.engine import Engine
from rag.types import Fingerprint

if TYPE_CHECKING:
    from rag.types import Matrix, Vector

_FILES = 10_000
_DIMENSION = 384


def run(options: Options) -> None:
    title(f"A second ingest of {_FILES:,} unchanged files")
    folder = options.work / "unchanged"
    _write(folder)
    settings = Settings.read(indexes=options.work / "unchanged-indexes")
    with watched() as first:
        _ingest(settings, folder)
    again = each(lambda _: _ingest(settings, folder), range(3))
    figure("first, with an embedder that costs nothing", first.seconds, "s")
    figure("second, unchanged: median of 3", p50(again) / 1000, "s", "< 3")
    figure("first over second", 1000 * first.seconds / p50(again), "x")


def _ingest(settings: Settings, folder: Path) -> None:
    engine = Engine(settings, choose=lambda *_: Choice(HashEmbedder(), "benchmark"))
    engine.ingest([folder])
    engine.close()


def _write(folder: Path) -> None:
    for place in range(_FILES):
        path = folder / f"{place % 100}" / f"{place}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# Document {place}\n\n{made_up(place)}\n", encoding="utf-8")


class HashEmbedder:
    """An `Embedder` that takes next to no time; its vectors mean nothing."""

    fingerprint = Fingerprint(model="hash", revision="1", dimension=_DIMENSION)
    max_tokens = 512

    def count_tokens(self, text: str) -> int:
        return len(text)

    def embed_documents(self, texts: Sequence[str]) -> Matrix:
        vectors = np.empty((len(texts), _DIMENSION), np.float32)
        for place, text in enumerate(texts):
            vectors[place] = self.embed_query(text)
        return vectors

    def embed_query(self, text: str) -> Vector:
        digest = hashlib.shake_128(text.encode()).digest(_DIMENSION)
        vector = np.frombuffer(digest, np.uint8).astype(np.float32) - 127.5
        return vector / np.linalg.norm(vector)
