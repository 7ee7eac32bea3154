"""A million chunks on one machine: memory, retrieval, start, one file more or less, recall."""

from __future__ import annotations

import time

import httpx
import numpy as np

from benchmarks.asker import measured_apart
from benchmarks.large import large
from benchmarks.options import Options
from benchmarks.probe import add_file, remove_file
from benchmarks.processes import serving
from benchmarks.report import figure, note, p50, title, watched
from benchmarks.stage import built
from benchmarks.vectors import passage_vectors, question_vectors
from rag.stores.codes import CANDIDATES
from rag.stores.embedded import EmbeddedStore
from rag.stores.nearest import Nearest
from rag.types import EXTRACTIVE, Filters

_SMALL = 100_000
_QUESTIONS = 300
_TIMES = 5
_FEW = 9
_BLOCK = 20_000


def run(options: Options) -> None:
    folder = large(options, options.large)
    title(f"{options.large:,} chunks on one machine")
    _retrieval(options)
    _start(options)
    store = EmbeddedStore(folder)
    store.refresh()
    _recall(options, store)
    _filtered(options, store)
    many = _changes(store, options.large)
    store.close()
    if options.large > _SMALL:
        store = EmbeddedStore(built(options, _SMALL))
        store.refresh()
        few = _changes(store, _SMALL)
        store.close()
        for what, at_many, at_few in zip(("adding", "removing"), many, few, strict=True):
            figure(f"{what} there over {what} at {_SMALL:,}", at_many / at_few, "x", "<= 2")


def _retrieval(options: Options) -> None:
    """In a process that does nothing else, as a server does it."""
    folder = large(options, options.large)
    asked, vectors = question_vectors(options, _QUESTIONS)
    result = measured_apart(folder, options.work, asked, vectors)
    figure("opening it in a new process", result["open"], "s")
    figure("memory of that process after the questions", result["mb"], "MB", "<= 1200")
    figure("its peak", result["peak_mb"], "MB")
    figure("retrieval, dense + keyword + fetch, p50", result["whole_p50"], "ms", "<= 15")
    figure("retrieval, p95", result["whole_p95"], "ms")
    figure("dense search alone, p50", result["dense_p50"], "ms")
    figure("keyword search alone, p50", result["keyword_p50"], "ms")
    figure("keyword search alone, p95", result["keyword_p95"], "ms", "<= 10")


def _start(options: Options) -> None:
    folder = large(options, options.large)
    asked, _ = question_vectors(options, 1)
    environment = {
        "RAG_INDEXES": str(folder.parent),
        "RAG_THRESHOLD": "0",
    }
    started = time.perf_counter()
    with serving(environment) as url:
        body = {
            "question": asked[0],
            "knowledge_base": folder.name,
            "stream": False,
            "model": EXTRACTIVE,
        }
        httpx.post(f"{url}/ask", json=body | {"stream": False}, timeout=120).raise_for_status()
        seconds = time.perf_counter() - started
    figure("starting a server, to its first answer", seconds, "s", "<= 5")


def _recall(options: Options, store: EmbeddedStore) -> None:
    asked, vectors = question_vectors(options, _QUESTIONS)
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


def _filtered(options: Options, store: EmbeddedStore) -> None:
    """A filter that a few chunks of all pass finds all of these."""
    asked, vectors = question_vectors(options, 1)
    places = np.random.default_rng(5).choice(options.large, _FEW, replace=False)
    filters = Filters(documents=tuple(f"{place}.txt" for place in places))
    with watched() as filtering:
        found = store.search(asked[0], vectors[0], limit=CANDIDATES, filters=filters)
    figure(f"found of {_FEW} chunks that pass a filter", len(found), "", f">= {_FEW}")
    figure("that search", 1000 * filtering.seconds, "ms")


def _changes(store: EmbeddedStore, size: int) -> tuple[float, float]:
    """Seconds of adding a file of 10 chunks, and of removing one, until this process shows it."""
    adding, removing = [], []
    for number in range(_TIMES):
        with watched() as watch:
            add_file(store, f"million-{number}")
        adding.append(watch.seconds)
    for number in range(_TIMES):
        with watched() as watch:
            remove_file(store, f"million-{number}")
        removing.append(watch.seconds)
    for what, taken in (("adding a file of 10 chunks to", adding), ("removing one from", removing)):
        figure(f"{what} {size:,}", p50(taken), "s", "<= 0.5")
        note(f"slowest of {_TIMES}: {max(taken):.2f} s")
    return p50(adding), p50(removing)
