"""A process that opens a knowledge base and asks: `python -m benchmarks.asker FOLDER FILE.npz`.

Without questions it only opens it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.report import each, p50, p95, resident_mb, watched
from benchmarks.vectors import LookUp, embedder
from rag.calibrate import Calibration
from rag.config import Settings
from rag.retrieve import Retriever
from rag.stores.embedded import EmbeddedStore
from rag.stores.embedded.database import Database
from rag.stores.indexes.codes import CANDIDATES
from rag.stores.indexes.keywords import KeywordIndex
from rag.stores.indexes.vectors import VectorIndex, base_files, load_base

if TYPE_CHECKING:
    from rag.types import Matrix

_TOP = 5


def measured_apart(
    folder: Path, work: Path, asked: Sequence[str], vectors: Matrix
) -> dict[str, float]:
    questions = work / "questions.npz"
    np.savez(questions, asked=np.array(asked), vectors=vectors)
    return _apart(folder, questions)


def built_apart(folder: Path) -> dict[str, float]:
    """`seconds` of opening it, whatever indexes that takes, and `peak_mb` of it."""
    return _apart(folder)


def _apart(*arguments: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.asker", *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def retriever_of(store: EmbeddedStore, asked: Sequence[str], vectors: Matrix) -> Retriever:
    """The bundled embedder's, with the vectors of these questions looked up."""
    settings = Settings.read()
    return Retriever(
        store,
        LookUp(embedder(), dict(zip(asked, vectors, strict=True))),
        Calibration.of(embedder(), settings.cache_dir),
        candidates=settings.candidates,
        threshold=0.0,
    )


def main() -> None:
    folder = Path(sys.argv[1])
    with watched() as opening:
        store = EmbeddedStore(folder)
        store.refresh()
    if len(sys.argv) == 2:
        store.close()
        print(json.dumps({"seconds": opening.seconds, "peak_mb": resident_mb("VmHWM")}))
        return
    questions = np.load(sys.argv[2], allow_pickle=False)
    asked, vectors = [str(text) for text in questions["asked"]], questions["vectors"]
    before = resident_mb()
    retriever = retriever_of(store, asked, vectors)
    model = resident_mb() - before
    for question in asked[:20]:
        retriever.retrieve(question, top_k=_TOP)
    whole = each(lambda place: retriever.retrieve(asked[place], top_k=_TOP), range(len(asked)))
    result = {
        "open": opening.seconds,
        "mb": resident_mb(),
        "anonymous_mb": resident_mb("RssAnon"),
        "file_mb": resident_mb("RssFile"),
        "model_mb": model,
        "peak_mb": resident_mb("VmHWM"),
        "whole_p50": p50(whole),
        "whole_p95": p95(whole),
    }
    store.close()
    print(json.dumps(result | _legs(folder, asked, vectors)))


def _legs(folder: Path, asked: Sequence[str], vectors: Matrix) -> dict[str, float]:
    identity = Database(folder / "knowledge.db").identity
    view = KeywordIndex(folder, identity).view()
    keyword = each(lambda i: view.question(asked[i]).search(CANDIDATES, None), range(len(asked)))
    ((path, generation), *_) = base_files(folder)
    base = load_base(path, generation, vectors.shape[1], identity)
    assert base is not None
    index = VectorIndex.of(base, vectors.shape[1])
    dense = each(lambda i: index.search(vectors[i], CANDIDATES, None), range(len(asked)))
    return {
        "dense_p50": p50(dense),
        "keyword_p50": p50(keyword),
        "keyword_p95": p95(keyword),
    }


if __name__ == "__main__":
    main()
