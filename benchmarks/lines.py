"""Where approximate search begins to pay: the two kinds of base of `rag.stores.indexes.vectors`."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest.mock import patch

import numpy as np

from benchmarks.options import Options
from benchmarks.report import each, figure, p50, title, watched
from benchmarks.vectors import passage_vectors, question_vectors
from rag.stores.indexes import vectors as store_vectors
from rag.stores.indexes.codes import SCORED
from rag.stores.indexes.vectors import build_base, search_index

if TYPE_CHECKING:
    from rag.stores.indexes.vectors import Base
    from rag.types import Matrix

_SIZES = (10_000, 30_000, 50_000, 100_000, 200_000)
_QUESTIONS = 300
_LIMIT = 50


def run(options: Options) -> None:
    title(f"Exact or approximate (best {_LIMIT} of a question, one thread)")
    _, asked = question_vectors(options, _QUESTIONS)
    for size in _SIZES:
        vectors = passage_vectors(options, size)
        exact, _ = _built(vectors, exact_limit=size)
        codes, seconds = _built(vectors, exact_limit=0)
        truth = search_index(exact, asked, 10, None)[1]
        found = search_index(codes, asked, SCORED * _LIMIT, None)[1]
        recall = np.mean([len(set(t) & set(f)) / 10 for t, f in zip(truth, found, strict=True)])
        flat, approximate = _search(exact, asked, _LIMIT), _search(codes, asked, SCORED * _LIMIT)
        figure(f"{size:,}: exact, p50", flat, "ms")
        figure(f"{size:,}: codes, p50 (looks at {codes.index.k_factor:g} x)", approximate, "ms")
        figure(
            f"{size:,}: codes, the ten nearest among {SCORED * _LIMIT}",
            float(recall),
            "",
            ">= 0.99",
        )
        figure(f"{size:,}: codes, build", seconds, "s")
        figure(f"{size:,}: exact over codes", flat / approximate, "x")


def _built(vectors: Matrix, *, exact_limit: int) -> tuple[Base, float]:
    ids = np.arange(1, len(vectors) + 1, dtype=np.int64)
    with patch.object(store_vectors, "EXACT_LIMIT", exact_limit), watched() as watch:
        base = build_base(ids, vectors, 1)
    return base, watch.seconds


def _search(base: Base, asked: Matrix, limit: int) -> float:
    return p50(each(lambda q: search_index(base, asked[q : q + 1], limit, None), range(len(asked))))
