"""How much of what is nearest the approximate search finds, on the knowledge base's own vectors."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rag.stores.codes import CANDIDATES, MAX_WIDTH
from rag.stores.nearest import Nearest, beside
from rag.stores.stored import Stored

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rag.stores.database import Database
    from rag.stores.vectors import VectorIndex
    from rag.types import Matrix

    Ids = NDArray[np.int64]

LEAST_RECALL = 0.98
_FILE = "recall.json"
_NEAREST = 10


@dataclass(frozen=True, slots=True)
class Recall:
    """`recall_at_10` is the share of the ten nearest chunks (by exact search over all vectors) that
    a search finds, 0..1. `width` is how many candidates for each chunk asked for the short codes
    choose, 0 where search is exact. `generation` and `chunks` are what it was measured on."""

    recall_at_10: float
    width: float
    seconds: float
    questions: int
    chunks: int
    generation: int


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


def keep(folder: Path, recall: Recall) -> None:
    """Raises OSError."""
    temporary = folder / f"{_FILE}.tmp"
    temporary.write_text(json.dumps(asdict(recall)), encoding="utf-8")
    temporary.replace(folder / _FILE)


def kept(folder: Path) -> Recall | None:
    """The last measurement, None if there was none, or the file is not what was written."""
    try:
        return Recall(**json.loads((folder / _FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
