"""One file of 10 chunks more or less, through the engine: from the disk until it is searched.

`python -m benchmarks.one_file FOLDER` prints the seconds at the knowledge base in FOLDER as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.corpus import made_up
from benchmarks.report import p50, watched
from benchmarks.vectors import LookUp, embedder
from rag.config import Settings
from rag.embed import Choice
from rag.engine import Engine

if TYPE_CHECKING:
    from rag.types import Matrix

_TIMES = 5
_CHUNKS = 10
_TOKEN = "benchmarkaddition"


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """Medians in seconds, embedding left out. `first` is the first file of a new process, which
    opens the knowledge base."""

    first: float
    adding: float
    slowest_adding: float
    removing: float
    slowest_removing: float
    embedding: float


def changed_apart(folder: Path) -> Changed:
    command = [sys.executable, "-m", "benchmarks.one_file", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Changed(**json.loads(done.stdout))


class _Timed(LookUp):
    """The bundled embedder, with the seconds that it took."""

    def __init__(self) -> None:
        super().__init__(embedder(), {})
        self.seconds = 0.0

    def embed_documents(self, texts: Sequence[str]) -> Matrix:
        with watched() as watch:
            vectors = super().embed_documents(texts)
        self.seconds += watch.seconds
        return vectors


def _changed(folder: Path, files: Path) -> Changed:
    timed = _Timed()
    settings = Settings.read(indexes=folder.parent)
    engine = Engine(settings, choose=lambda *_: Choice(timed, "benchmark"))
    written = [_written(engine, files, number) for number in range(_TIMES + 1)]
    adding, removing, embedding = [], [], []
    for path in written:
        before = timed.seconds
        with watched() as watch:
            report = engine.ingest([path], knowledge_base=folder.name)
        embedding.append(timed.seconds - before)
        adding.append(watch.seconds - embedding[-1])
        if (report.added, report.chunks) != ([path.name], _CHUNKS):
            raise SystemExit(f"{path.name} became {report.chunks} chunks.")
    store = engine.store(folder.name)
    vector = timed.embed_documents([_TOKEN])[0]
    found = store.search(_TOKEN, vector, limit=2 * _CHUNKS * len(written))
    if sum(c.keyword > 0 for c in found) < _CHUNKS * len(written):
        raise SystemExit("What was added is not found.")
    for path in written:
        with watched() as watch:
            engine.remove([path.name], knowledge_base=folder.name)
        removing.append(watch.seconds)
    engine.close()
    return Changed(
        first=adding[0],
        adding=p50(adding[1:]),
        slowest_adding=max(adding[1:]),
        removing=p50(removing[1:]),
        slowest_removing=max(removing[1:]),
        embedding=p50(embedding[1:]),
    )


def _written(engine: Engine, files: Path, number: int) -> Path:
    """A file that becomes 10 chunks, each with our word in it."""
    path = files / f"one-file-{number}.md"
    paragraphs: list[str] = []
    chunks = 0
    while chunks < _CHUNKS:
        place = 1_000_000 + 1_000 * number + len(paragraphs)
        paragraphs.append(f"## Part {len(paragraphs)}\n\n{_TOKEN} {made_up(place)[:150]}\n")
        path.write_text("\n".join(paragraphs), encoding="utf-8")
        chunks = len(engine.preview(path)[1])
    return path


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="rag-one-file-") as files:
        print(json.dumps(asdict(_changed(Path(sys.argv[1]), Path(files)))))


if __name__ == "__main__":
    main()
