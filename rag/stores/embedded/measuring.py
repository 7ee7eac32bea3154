"""Measures how much of what is nearest the approximate search finds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rag.stores.embedded.stored import Stored
from rag.stores.indexes.codes import CANDIDATES, MAX_WIDTH
from rag.stores.indexes.nearest import Nearest, beside
from rag.stores.recall import LEAST_RECALL, Recall

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rag.stores.embedded.database import Database
    from rag.stores.indexes.vectors import VectorIndex
    from rag.types import Matrix

    Ids = NDArray[np.int64]

_NEAREST = 10


def measured(
    db: Database,
    index: VectorIndex,
    *,
    sample: int,
    clock: Callable[[], float] = time.monotonic,
) -> Recall:
    """Compares search with an exact one, for made-up questions beside stored vectors; all vectors
    are read from the database, in blocks. Widens the search until LEAST_RECALL is reached."""
    import numpy as np

    began = clock()
    stored = Stored(db, index.delta.shape[1], index.generation)
    generator = np.random.default_rng()
    questions = beside(stored.sample(sample, generator), generator)
    nearest = Nearest(questions, _NEAREST)
    for ids, vectors in stored.blocks():
        nearest.see(ids, vectors)
    truth = nearest.ids()
    found = _found(index, questions, truth)
    while found < LEAST_RECALL and index.widen(MAX_WIDTH):
        found = _found(index, questions, truth)
    return Recall(found, index.width, clock() - began, len(truth), len(stored), index.generation)


def _found(index: VectorIndex, questions: Matrix, truth: list[Ids]) -> float:
    shares = []
    for question, wanted in zip(questions, truth, strict=True):
        got = index.search(question, CANDIDATES, None)
        shares.append(sum(i in got for i in wanted.tolist()) / len(wanted))
    return sum(shares) / len(shares) if shares else 1.0
