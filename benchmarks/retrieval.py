"""Retrieval without the question's embedding, beside what people use today."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from benchmarks.corpus import texts
from benchmarks.options import Options
from benchmarks.peers import NAMES
from benchmarks.report import each, figure, note, p50, p95, title, watched
from benchmarks.stage import built
from benchmarks.vectors import LookUp, embedder, passage_vectors, question_vectors
from rag.calibrate import Calibration
from rag.config import Settings
from rag.retrieve import Retriever
from rag.stores.embedded import EmbeddedStore

if TYPE_CHECKING:
    from types import ModuleType

_QUESTIONS = 300
_TOP = 5
_PATIENCE = 30.0  # seconds for one peer's questions
_TARGET = "<= 5"
_INSTALL = "pip install -r benchmarks/requirements-peers.txt"


def run(options: Options) -> None:
    for size in options.sizes:
        title(f"Retrieval at {size:,} chunks, best {_TOP}, the question's embedding left out")
        ours = _ours(options, size)
        for name in NAMES:
            _peer(name, options, size, ours)


def _ours(options: Options, size: int) -> float:
    asked, vectors = question_vectors(options, _QUESTIONS)
    settings = Settings.read()
    store = EmbeddedStore(built(options, size))
    retriever = Retriever(
        store,
        LookUp(embedder(), dict(zip(asked, vectors, strict=True))),
        Calibration.of(embedder(), settings.cache_dir),
        candidates=settings.candidates,
        threshold=0.0,
    )
    for question in asked[:20]:
        retriever.retrieve(question, top_k=_TOP)
    taken = each(lambda place: retriever.retrieve(asked[place], top_k=_TOP), range(len(asked)))
    store.close()
    figure("rag: p50", p50(taken), "ms", _TARGET)
    figure("rag: p95", p95(taken), "ms")
    return p50(taken)


def _peer(name: str, options: Options, size: int, ours: float) -> None:
    module: ModuleType = importlib.import_module(f"benchmarks.peers.{name}")
    try:
        with watched() as building:
            ask = module.build(texts(options, size), passage_vectors(options, size))
    except ImportError as error:
        note(f"{module.LABEL}: not installed ({error.name}): {_INSTALL}")
        return
    asked, vectors = question_vectors(options, _QUESTIONS)
    ask(asked[0], vectors[0], _TOP)
    with watched() as once:
        ask(asked[1], vectors[1], _TOP)
    count = max(3, min(len(asked), int(_PATIENCE / max(once.seconds, 1e-4))))
    taken = each(lambda place: ask(asked[place], vectors[place], _TOP), range(count))
    figure(f"{module.LABEL}: p50 of {count}", p50(taken), "ms")
    figure(f"{module.LABEL}: p95", p95(taken), "ms")
    figure(f"{module.LABEL} over rag, p50", p50(taken) / ours, "x")
    note(f"{module.LABEL}: built in {building.seconds:.1f} s")
