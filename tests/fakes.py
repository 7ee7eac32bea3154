"""Stand-ins for the outside world that several tests share."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from rag.types import Fingerprint

if TYPE_CHECKING:
    from rag.types import Matrix, Vector


class FakeEmbedder:
    """Texts with words or neighbouring characters in common are near each other; instant.

    Obeys the whole protocol of `Embedder`, and counts what it was asked: `calls` (calls of either
    method) and `texts` (texts embedded). One token is one character that is not white space.
    """

    def __init__(
        self,
        *,
        model: str = "fake",
        revision: str = "1",
        dimension: int = 64,
        max_tokens: int = 512,
    ) -> None:
        self._fingerprint = Fingerprint(model=model, revision=revision, dimension=dimension)
        self._max_tokens = max_tokens
        self._lock = threading.Lock()
        self.calls = 0
        self.texts = 0

    @property
    def fingerprint(self) -> Fingerprint:
        return self._fingerprint

    @property
    def max_tokens(self) -> int:
        return self._max_tokens

    def count_tokens(self, text: str) -> int:
        return len("".join(text.split()))

    def embed_documents(self, texts: Sequence[str]) -> Matrix:
        self._count(len(texts))
        vectors = np.zeros((len(texts), self._fingerprint.dimension), np.float32)
        for place, text in enumerate(texts):
            vectors[place] = self._vector(text)
        return vectors

    def embed_query(self, text: str) -> Vector:
        self._count(1)
        return self._vector(text)

    def _count(self, texts: int) -> None:
        with self._lock:
            self.calls += 1
            self.texts += texts

    def _vector(self, text: str) -> Vector:
        dimension = self._fingerprint.dimension
        vector = np.zeros(dimension, np.float32)
        for feature in _features(text):
            vector += _direction(feature, dimension)
        length = float(np.linalg.norm(vector))
        return vector / np.float32(length) if length else _direction("", dimension)


def _features(text: str) -> list[str]:
    """The words in lower case, and pairs of neighbouring characters beyond ASCII."""
    words = [word for word in text.lower().split() if word.isascii()]
    wide = [a + b for a, b in pairwise(text) if not (a + b).isascii()]
    return words + wide + [character for character in text if not character.isascii()]


@cache
def _direction(feature: str, dimension: int) -> Vector:
    """A random direction that depends on nothing but its arguments."""
    seed = int.from_bytes(hashlib.sha256(feature.encode("utf-8", "replace")).digest()[:8], "big")
    direction = np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)
    unit: Vector = direction / np.float32(np.linalg.norm(direction))
    return unit
