"""Which kind of vector index: time, recall, memory and building of each on the same vectors.

Recall is the share of the ten nearest among the best 50, or so many as the name says: they are
scored exactly afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from benchmarks.options import Options
from benchmarks.report import each, note, p50, p95, title
from benchmarks.vectors import passage_vectors, question_vectors
from rag.stores.indexes.codes import CANDIDATES, SCORED, coarse_kind
from rag.stores.indexes.nearest import Nearest

if TYPE_CHECKING:
    from rag.types import Matrix

_QUESTIONS = 300
_TRAINING = 20_000
_BLOCK = 20_000
_PATIENCE = 600.0  # seconds for building one
_MORE = SCORED * CANDIDATES
_ENOUGH = 0.98  # recall; wider search is tried until then


@dataclass(frozen=True, slots=True)
class Kind:
    """`widths` are what `widen` sets, one after the other, until recall is enough."""

    name: str
    make: Callable[[int], Any]
    widths: Sequence[int] = (0,)
    widen: Callable[[Any, int], None] = lambda _index, _width: None
    limit: int = CANDIDATES


def run(options: Options) -> None:
    for size in options.sizes:
        title(f"Kinds of vector index, {size:,} vectors, best {CANDIDATES}, one thread")
        _, asked = question_vectors(options, _QUESTIONS)
        vectors = passage_vectors(options, size)
        nearest = Nearest(asked, 10)
        for start in range(0, size, _BLOCK):
            block = vectors[start : start + _BLOCK]
            nearest.see(np.arange(start, start + len(block)), block)
        truth = nearest.ids()
        print("  | kind | width | recall@10 | p50 / p95 ms | MB | trained / filled s |")
        for kind in _kinds(vectors.shape[1], size):
            _measure(kind, vectors, asked, truth)


def _kinds(dimension: int, size: int) -> list[Kind]:
    lists = 1024 if size <= 300_000 else 4096
    short, metric = coarse_kind(dimension), faiss.METRIC_INNER_PRODUCT

    def made(description: str) -> Callable[[int], Any]:
        return lambda d: faiss.index_factory(d, description, metric)

    def probes(index: Any, width: int) -> None:
        index.nprobe = width

    def looks(index: Any, width: int) -> None:
        index.hnsw.efSearch = width

    def again(index: Any, width: int) -> None:
        index.k_factor = width

    doubling = (8, 16, 32, 64, 128)
    return [
        Kind("exact", made("Flat")),
        Kind("8-bit codes alone (SQ8)", made("SQ8")),
        Kind(f"IVF{lists}, SQ8", made(f"IVF{lists},SQ8"), (16, 64, 256, 512), probes),
        Kind("HNSW16, SQ8", made("HNSW16_SQ8"), (64, 256, 512), looks),
        Kind("4-bit fast-scan, no second look", made(short)),
        *(
            Kind(
                f"4-bit fast-scan, then {codes}", made(f"{short},Refine({codes})"), doubling, again
            )
            for codes in ("SQ8", "SQ6", "SQ4")
        ),
        Kind(
            f"4-bit fast-scan, then SQ4, best {_MORE} (what the store does)",
            made(f"{short},Refine(SQ4)"),
            doubling,
            again,
            _MORE,
        ),
        Kind(f"RaBitQ of 2 bits, best {_MORE}", made("RaBitQfs2"), limit=_MORE),
        Kind("RaBitQ fast-scan, then SQ8", made("RaBitQfs,Refine(SQ8)"), doubling, again),
        Kind("RaBitQ fast-scan, then SQ6", made("RaBitQfs,Refine(SQ6)"), doubling, again),
    ]


def _measure(kind: Kind, vectors: Matrix, asked: Matrix, truth: list[Any]) -> None:
    # As the store does it: two threads of OpenMP that share a core wait for each other.
    faiss.omp_set_num_threads(1)
    generator = np.random.default_rng(1)
    chosen = generator.choice(len(vectors), min(len(vectors), _TRAINING), replace=False)
    index = kind.make(vectors.shape[1])
    began = time.perf_counter()
    index.train(vectors[np.sort(chosen)])
    trained = time.perf_counter() - began
    began = time.perf_counter()
    for start in range(0, len(vectors), _BLOCK):
        index.add(vectors[start : start + _BLOCK])
        if time.perf_counter() - began > _PATIENCE and index.ntotal < len(vectors):
            note(f"{kind.name}: {index.ntotal:,} after {_PATIENCE:g} s; given up")
            return
    filled = time.perf_counter() - began
    megabytes = faiss.serialize_index(index).nbytes / 2**20
    for width in kind.widths:
        kind.widen(index, width)
        found = index.search(asked, kind.limit)[1]
        recall = np.mean([np.isin(t, f).mean() for t, f in zip(truth, found, strict=True)])
        if recall >= _ENOUGH or width == kind.widths[-1]:
            break
    taken = each(lambda q: index.search(asked[q : q + 1], kind.limit), range(len(asked)))
    note(
        f"| {kind.name} | {width or ''} | {recall:.3f} | {p50(taken):.2f} / {p95(taken):.2f}"
        f" | {megabytes:,.0f} | {trained:.1f} / {filled:.1f} |"
    )
