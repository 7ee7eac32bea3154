"""Exact search over vectors that come in blocks, so that they need not fit into memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rag.types import Matrix

    Ids = NDArray[np.int64]


def beside(vectors: Matrix, generator: np.random.Generator) -> Matrix:
    """Made-up questions, one a vector: at a cosine of some 0.9, for questions lie beside, not on,
    the chunks."""
    import numpy as np

    moved = vectors + generator.normal(0, 0.5 / np.sqrt(vectors.shape[1]), vectors.shape)
    unit: Matrix = (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)
    return unit


class Nearest:
    """The `count` nearest of each question among all vectors seen so far."""

    def __init__(self, questions: Matrix, count: int) -> None:
        import numpy as np

        self.questions = questions
        self._count = count
        self._scores = np.empty((len(questions), 0), np.float32)
        self._ids = np.empty((len(questions), 0), np.int64)

    def see(self, ids: Ids, vectors: Matrix) -> None:
        import numpy as np

        scores = self.questions @ vectors.T
        best = min(self._count, scores.shape[1])
        near = np.argpartition(-scores, best - 1, axis=1)[:, :best]
        scores = np.hstack([self._scores, np.take_along_axis(scores, near, 1)])
        named = np.hstack([self._ids, ids[near]])
        order = np.argsort(-scores, axis=1)[:, : self._count]
        self._scores = np.take_along_axis(scores, order, 1)
        self._ids = np.take_along_axis(named, order, 1)

    def ids(self) -> list[Ids]:
        """Of each question, rising."""
        import numpy as np

        return list(np.sort(self._ids, axis=1))
