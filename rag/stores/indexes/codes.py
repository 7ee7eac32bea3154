"""The approximate search of a large base, in two steps that both look at every vector's code.

Short codes choose candidates; longer codes put them in order, and the caller scores twice as many
as are wanted exactly, so that codes of 4 bits a dimension do where there are many dimensions.

A mask of what may be found works inside the search: it decides which candidates count, and where
too few are left, the vectors it allows are compared one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rag.types import Matrix

    Ids = NDArray[np.int64]

TARGET_RECALL = 0.99
MIN_WIDTH = 8
MAX_WIDTH = 64
CANDIDATES = 50  # are asked for, as a rule
SCORED = 2  # times as many are found and scored exactly afterwards; they must hold the ten nearest
_FEW = 5_000  # decoded and compared in 1 ms
_SCAN_BELOW = 10  # a tenth of all: the longer codes of fewer are scanned as fast as all short ones
_SPARE = 1.2
_MANY_DIMENSIONS = 256
_WORTH_IT = 0.001  # of recall, for twice the candidates


def coarse_kind(dimension: int) -> str:
    """The short codes, in FAISS's words: 4 bits for each pair of dimensions."""
    return f"PQ{dimension // 2 if dimension % 2 == 0 else dimension}x4fs"


def fine_kind(dimension: int) -> str:
    """The longer codes. The error of 4 bits shrinks with the root of the dimension."""
    return "SQ4" if dimension >= _MANY_DIMENSIONS else "SQ8"


def new_codes(dimension: int, sample: Matrix) -> Any:
    """An empty index trained on a sample: short codes, then longer ones."""
    import faiss

    kind = f"{coarse_kind(dimension)},Refine({fine_kind(dimension)})"
    index: Any = faiss.index_factory(dimension, kind, faiss.METRIC_INNER_PRODUCT)
    index.train(sample)
    index.k_factor = MIN_WIDTH
    return index


def scan(
    index: Any, vectors: Matrix, limit: int, keep: NDArray[np.bool_] | None
) -> tuple[Matrix, Ids]:
    """FAISS's own search of vectors that are compared one by one, of those to keep only."""
    import faiss
    import numpy as np

    parameters: Any = None
    if keep is not None:
        bits = np.packbits(keep, bitorder="little")
        options: dict[str, Any] = {"sel": faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))}
        parameters = faiss.SearchParameters(**options)
    found: tuple[Matrix, Ids] = index.search(vectors, limit, params=parameters)
    return found


def search_codes(
    index: Any, vectors: Matrix, limit: int, keep: NDArray[np.bool_] | None
) -> tuple[Matrix, Ids]:
    """Scores and positions of the best `limit` of each row, -1 where there are no more."""
    import numpy as np

    if keep is None or keep.all():
        found: tuple[Matrix, Ids] = index.search(vectors, limit)
        return found
    rows = [_masked(index, vector[None, :], limit, keep) for vector in vectors]
    return np.vstack([scores for scores, _ in rows]), np.vstack([places for _, places in rows])


def _masked(index: Any, vector: Matrix, limit: int, keep: NDArray[np.bool_]) -> tuple[Matrix, Ids]:
    import faiss
    import numpy as np

    fine: Any = faiss.downcast_index(index.refine_index)
    kept = int(keep.sum())
    wanted = int(limit * index.k_factor)
    if kept <= _FEW:
        return _compared(fine, vector, limit, np.flatnonzero(keep))
    if kept * _SCAN_BELOW >= len(keep):
        near = index.base_index.search(vector, min(int(wanted * _SPARE * len(keep) / kept), kept))
        candidates = near[1][0][near[1][0] >= 0]
        candidates = candidates[keep[candidates]]
        if len(candidates) >= wanted:
            return _compared(fine, vector, limit, candidates[:wanted])
    # The mask leaves out most of all, or just the question's surroundings.
    return scan(fine, vector, limit, keep)


def _compared(fine: Any, vector: Matrix, limit: int, places: Ids) -> tuple[Matrix, Ids]:
    """The best of these positions by the longer codes."""
    import numpy as np

    scores = np.full((1, limit), -np.inf, np.float32)
    found = np.full((1, limit), -1, np.int64)
    if len(places):
        all_scores = fine.reconstruct_batch(places) @ vector[0]
        order = np.argsort(-all_scores)[:limit]
        scores[0, : len(order)], found[0, : len(order)] = all_scores[order], places[order]
    return scores, found


def choose_width(index: Any, questions: Matrix, nearest: Sequence[Ids]) -> float:
    """Doubles how many candidates the short codes choose until the nearest positions of each
    question are found often enough, or wider finds no more. Returns the share that is found."""
    index.k_factor = MIN_WIDTH
    recall = _recall(index, questions, nearest)
    while recall < TARGET_RECALL and index.k_factor < MAX_WIDTH:
        index.k_factor *= 2
        wider = _recall(index, questions, nearest)
        if wider < recall + _WORTH_IT:
            index.k_factor /= 2
            break
        recall = wider
    return recall


def _recall(index: Any, questions: Matrix, nearest: Sequence[Ids]) -> float:
    import numpy as np

    _, found = index.search(questions, CANDIDATES * SCORED)
    shares = [np.isin(n, f).mean() for n, f in zip(nearest, found, strict=True) if len(n)]
    return float(np.mean(shares))
