"""A million chunks on one machine: memory, retrieval, start, one file more or less, recall."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import numpy as np

from benchmarks.asker import built_apart, measured_apart
from benchmarks.large import large
from benchmarks.one_file import Changed, changed_apart
from benchmarks.options import Options
from benchmarks.processes import serving
from benchmarks.report import figure, note, title, watched
from benchmarks.vectors import passage_vectors, question_vectors
from rag.stores.embedded import EmbeddedStore
from rag.stores.indexes.codes import CANDIDATES
from rag.stores.indexes.nearest import Nearest
from rag.types import EXTRACTIVE, Filters

_SMALL = 100_000
_QUESTIONS = 1_000
_RECALL_QUESTIONS = 300
_FEW = 9
_BLOCK = 20_000


def run(options: Options) -> None:
    folder = large(options, options.large)
    title(f"{options.large:,} chunks on one machine")
    _build(folder)
    _retrieval(options, folder)
    _start(options, folder)
    many = _changes(folder, options.large)
    if options.large > _SMALL:
        few = _changes(large(options, _SMALL), _SMALL)
        for what in ("adding", "removing"):
            ratio = getattr(many, what) / getattr(few, what)
            figure(f"{what} there over {what} at {_SMALL:,}", ratio, "x", "<= 2")
    store = EmbeddedStore(folder)
    store.refresh()
    _filtered(options, store)
    _recall(options, store)
    store.close()


def _build(folder: Path) -> None:
    """In a process of its own: the vector index was left out of the copy, or is there already."""
    result = built_apart(folder)
    figure("opening it first, making what indexes are missing", result["seconds"], "s")
    figure("peak memory of that process", result["peak_mb"], "MB")


def _retrieval(options: Options, folder: Path) -> None:
    """In a process that does nothing else, as a server does it."""
    asked, vectors = question_vectors(options, _QUESTIONS)
    result = measured_apart(folder, options.work, asked, vectors)
    figure("opening it in a new process", result["open"], "s")
    figure(f"memory of that process after {len(asked)} questions", result["mb"], "MB", "<= 1200")
    note(
        f"of it {result['anonymous_mb']:.0f} MB its own and {result['file_mb']:.0f} MB of mapped"
        f" files, which the system can drop; {result['model_mb']:.0f} MB came with the model"
    )
    figure("its peak", result["peak_mb"], "MB")
    figure("retrieval, dense + keyword + fetch, p50", result["whole_p50"], "ms", "<= 15")
    figure("retrieval, p95", result["whole_p95"], "ms")
    figure("dense search alone, p50", result["dense_p50"], "ms")
    figure("keyword search alone, p50", result["keyword_p50"], "ms")
    figure("keyword search alone, p95", result["keyword_p95"], "ms", "<= 10")


def _start(options: Options, folder: Path) -> None:
    asked, _ = question_vectors(options, 1)
    environment = {"RAG_INDEXES": str(folder.parent), "RAG_THRESHOLD": "0"}
    started = time.perf_counter()
    with serving(environment) as url:
        body = {
            "question": asked[0],
            "knowledge_base": folder.name,
            "stream": False,
            "model": EXTRACTIVE,
        }
        httpx.post(f"{url}/ask", json=body, timeout=120).raise_for_status()
        seconds = time.perf_counter() - started
    figure("starting a server, to its first answer", seconds, "s", "<= 5")


def _changes(folder: Path, size: int) -> Changed:
    changed = changed_apart(folder)
    figure(f"adding a file of 10 chunks to {size:,}", changed.adding, "s", "<= 0.5")
    note(
        f"beside its embedding ({changed.embedding:.2f} s); slowest {changed.slowest_adding:.2f} s;"
        f" in a process that opens the knowledge base for it {changed.first:.2f} s"
    )
    figure(f"removing one from {size:,}", changed.removing, "s", "<= 0.5")
    note(f"slowest {changed.slowest_removing:.2f} s")
    return changed


def _filtered(options: Options, store: EmbeddedStore) -> None:
    """A filter that a few chunks pass finds all of these; one that many pass costs little."""
    asked, vectors = question_vectors(options, _RECALL_QUESTIONS)
    places = np.random.default_rng(5).choice(options.large, _FEW, replace=False)
    few = Filters(documents=tuple(f"{place}.txt" for place in places))
    with watched() as filtering:
        found = store.search(asked[0], vectors[0], limit=CANDIDATES, filters=few)
    figure(f"found of {_FEW} chunks that pass a filter", len(found), "", f">= {_FEW}")
    figure("that search", 1000 * filtering.seconds, "ms")
    for what, filters in (
        ("type that all have", Filters(types=("txt",))),
        ("tag that none has", Filters(tags=("none",))),
        ("pattern of a tenth of the names", Filters(paths=("*7.txt",))),
    ):
        with watched() as first:
            store.search(asked[0], vectors[0], limit=CANDIDATES, filters=filters)
        with watched() as again:
            store.search(asked[1], vectors[1], limit=CANDIDATES, filters=filters)
        figure(f"filter by a {what}, the first time", first.seconds, "s", "<= 0.5")
        figure("again", 1000 * again.seconds, "ms")


def _recall(options: Options, store: EmbeddedStore) -> None:
    asked, vectors = question_vectors(options, _RECALL_QUESTIONS)
    passages = passage_vectors(options, options.large)
    nearest = Nearest(vectors, 10)
    for start in range(0, len(passages), _BLOCK):
        block = passages[start : start + _BLOCK]
        nearest.see(np.arange(start + 1, start + 1 + len(block)), block)
    shares = []
    for question, vector, wanted in zip(asked, vectors, nearest.ids(), strict=True):
        candidates = store.search(question, vector, limit=CANDIDATES)
        found = [c.chunk_id for c in candidates if c.via != "keyword"]
        shares.append(np.isin(wanted, found).mean())
    figure(f"recall@10 of {len(asked)} questions", float(np.mean(shares)), "", ">= 0.98")
    own = store.measure_recall()
    assert own is not None
    figure("recall@10 as it measures it by itself", own.recall_at_10, "", ">= 0.98")
    note(f"with {own.width:g} candidates for each wanted; took {own.seconds:.1f} s")
