"""Vectors for large corpora: some embedded, the others derived from them.

Embedding 100,000 passages takes the better part of an hour on two cores and says nothing about
search. So the first few thousand are embedded, kept in the cache, and every other passage gets the
vector of an embedded one moved by half the difference of two more, at unit length: the result lies
in the directions in which real passages differ, which random noise does not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.corpus import questions, texts
from benchmarks.options import Options
from benchmarks.report import note
from rag.config import Settings
from rag.embed.bundled import BundledEmbedder

if TYPE_CHECKING:
    from rag.types import Embedder, Fingerprint, Matrix, Vector

_SLICE = 256
_MOVE = 0.5


@cache
def embedder() -> BundledEmbedder:
    return BundledEmbedder(Settings.read().cache_dir)


def passage_vectors(options: Options, count: int) -> Matrix:
    """One unit vector a passage, in the order of `corpus.texts`."""
    real = _embedded(options, texts(options, options.embedded), "passage")
    if count <= len(real):
        return real[:count]
    note(f"vectors: {len(real):,} embedded, {count - len(real):,} derived from them")
    generator = np.random.default_rng(1)
    parents, plus, minus = generator.integers(0, len(real), (3, count - len(real)))
    moved = real[parents] + _MOVE * (real[plus] - real[minus])
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    return np.vstack([real, moved]).astype(np.float32)


def question_vectors(options: Options, count: int) -> tuple[list[str], Matrix]:
    asked = questions(options, count)
    return asked, _embedded(options, asked, "query")


def _embedded(options: Options, wanted: Sequence[str], side: str) -> Matrix:
    digest = hashlib.sha256(f"{side}|{embedder().fingerprint!r}|{wanted!r}".encode()).hexdigest()
    path = options.cache / f"{side}-{digest[:24]}.npy"
    if path.exists():
        kept: Matrix = np.load(path, allow_pickle=False)
        return kept
    rows = []
    for start in range(0, len(wanted), _SLICE):
        part = wanted[start : start + _SLICE]
        if side == "query":
            rows += [embedder().embed_query(text) for text in part]
        else:
            rows.append(embedder().embed_documents(part))
        print(f"\r  embedding {side}: {start + len(part):,} of {len(wanted):,}", end="", flush=True)
    print()
    vectors = np.vstack(rows)
    options.cache.mkdir(parents=True, exist_ok=True)
    np.save(path, vectors, allow_pickle=False)
    return vectors


class LookUp:
    """An `Embedder` whose questions were embedded before, so that it takes no time."""

    def __init__(self, real: Embedder, vectors: Mapping[str, Vector]) -> None:
        self._real = real
        self._vectors = vectors

    @property
    def fingerprint(self) -> Fingerprint:
        return self._real.fingerprint

    @property
    def max_tokens(self) -> int:
        return self._real.max_tokens

    def count_tokens(self, text: str) -> int:
        return self._real.count_tokens(text)

    def embed_documents(self, texts: Sequence[str]) -> Matrix:
        return self._real.embed_documents(texts)

    def embed_query(self, text: str) -> Vector:
        return self._vectors[text]
