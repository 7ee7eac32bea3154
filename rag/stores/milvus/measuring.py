"""How much of what is nearest Milvus finds, on the knowledge base's own vectors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rag.stores.indexes.nearest import Nearest, beside
from rag.stores.milvus.asking import nearest
from rag.stores.milvus.contents import chunk_ids, key_batches
from rag.stores.milvus.records import Records
from rag.stores.milvus.vectors import Milvus
from rag.stores.milvus.views import View
from rag.stores.recall import Recall

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rag.types import Matrix

    Ids = NDArray[np.int64]

_NEAREST = 10


def measured(
    view: View,
    records: Records,
    milvus: Milvus,
    *,
    sample: int,
    clock: Callable[[], float] = time.monotonic,
) -> Recall:
    """Compares search with an exact one, for made-up questions beside stored vectors; all vectors
    are read from Milvus, in batches."""
    import numpy as np

    began = clock()
    generator = np.random.default_rng()
    ids = np.array([i for batch in _ids(view, records) for i in batch], np.int64)
    drawn = generator.choice(ids, min(sample, len(ids)), replace=False).tolist()
    stored = milvus.vectors(view.collection, drawn, view.state.guarantee)
    questions = beside(np.array(list(stored.values()), np.float32), generator)
    exact = Nearest(questions, _NEAREST)
    for some, vectors in _vectors(view, records, milvus):
        exact.see(some, vectors)
    shares = []
    for question, wanted in zip(questions, exact.ids(), strict=True):
        found = nearest(view, records, milvus, question, _NEAREST)
        shares.append(sum(i in found for i in wanted.tolist()) / len(wanted))
    recall = sum(shares) / len(shares) if shares else 1.0
    generation = view.state.generation
    return Recall(recall, 0.0, clock() - began, len(shares), len(ids), generation)


def _ids(view: View, records: Records) -> Iterator[list[int]]:
    for keys in key_batches(records, records.shown(view.state.generation)):
        yield chunk_ids(records, keys)


def _vectors(view: View, records: Records, milvus: Milvus) -> Iterator[tuple[Ids, Matrix]]:
    import numpy as np

    for ids in _ids(view, records):
        stored = milvus.vectors(view.collection, ids, view.state.guarantee)
        if stored:
            yield np.array(list(stored), np.int64), np.array(list(stored.values()), np.float32)
