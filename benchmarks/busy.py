"""What a server's questions notice of other processes that change its knowledge base: an ingest, a
deletion, a reindex, and an ingest that embeds with the real model."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from benchmarks.corpus import made_up, questions
from benchmarks.options import Options
from benchmarks.processes import command_line, serving
from benchmarks.report import each, figure, note, p50, p95, title, watched
from benchmarks.stage import built, one_chunk
from benchmarks.vectors import embedder
from rag.stores.embedded import EmbeddedStore
from rag.stores.embedded.database import read_generation

if TYPE_CHECKING:
    from rag.types import StoreWriter

_QUESTIONS = 300
_QUIET_ROUNDS = 3
_AT_ONCE = 20
_PAUSE = 0.01  # between questions: a reader that never rests would measure the scheduler
_LOOK = 0.01
_TOP = 5
_MOST = 50
_PATIENCE = 60
_NICE = 10  # as `rag ingest` makes itself
_MARKER = "busymarker"  # with the work's name a word of a document, by which a commit is seen
_FEW = 1_000
_FIRST = {"reindex": 0, "ingest": 1_000_000, "small ingest": 2_000_000}  # numbers of documents
_REAL_SECONDS = 60
_REAL_FILES = 4_000
_PARENTS = 2_000
_MOVE = 0.5


def run(options: Options) -> None:
    size = max(options.sizes)
    folder = built(options, size)
    title(f"Questions to a server while other processes change its {size:,} chunks")
    with serving({"RAG_INDEXES": str(folder.parent), "RAG_THRESHOLD": "0"}) as url:
        server = _Server(url, folder, questions(options, _QUESTIONS))
        server.quiet()
        _measured(server, "small ingest", min(size, _FEW))
        _measured(server, "ingest", size)
        _measured(server, "delete", size // 10)
        _measured(server, "reindex", size)
        _real(server, options)


@dataclass(slots=True)
class _Server:
    url: str
    folder: Path
    asked: list[str]
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=60))

    def ask(self, place: int) -> None:
        time.sleep(_PAUSE)
        self.retrieve(self.asked[place % len(self.asked)])

    def retrieve(self, question: str, top_k: int = _TOP) -> list[str]:
        """The texts of passages."""
        body = {"question": question, "knowledge_base": self.folder.name, "top_k": top_k}
        answer = self.client.post(f"{self.url}/retrieve", json=body).raise_for_status()
        return [str(hit["text"]) for hit in answer.json()["hits"]]

    def quiet(self) -> list[float]:
        each(self.ask, range(_AT_ONCE))
        return each(self.ask, range(_QUIET_ROUNDS * len(self.asked)))


def _measured(server: _Server, work: str, count: int) -> None:
    quiet = server.quiet()
    busy: list[float] = []
    command = [sys.executable, "-m", "benchmarks.busy", str(server.folder), work]
    with _seeing(server, work) as seen, _beside([*command, str(count)]) as process:
        while process.poll() is None:
            busy += each(server.ask, range(_AT_ONCE))
        assert process.stdout is not None
        said = json.loads(process.stdout.read())
    note(f"{work} of {count:,}: {said['put']:.1f} s writing, {said['publish']:.1f} s publishing")
    _compare(work, quiet, busy)
    figure(f"{work}: from its publishing until the server shows it", seen[0], "s", "<= 1")


def _compare(work: str, quiet: list[float], busy: list[float]) -> None:
    pause = 1000 * _PAUSE
    figure(f"{work}: quiet, p50", p50(quiet) - pause, "ms")
    figure(f"{work}: quiet, p95", p95(quiet) - pause, "ms")
    figure(f"{work}: meanwhile, p50", p50(busy) - pause, "ms")
    figure(f"{work}: meanwhile, p95, of {len(busy):,}", p95(busy) - pause, "ms")
    ratio = (p95(busy) - pause) / (p95(quiet) - pause)
    figure(f"{work}: p95 meanwhile over quiet", ratio, "x", "<= 1.5")
    figure(f"{work}: longest of all meanwhile", max(busy) - pause, "ms")


@contextmanager
def _seeing(server: _Server, work: str) -> Iterator[list[float]]:
    """Asks for the marker, from the moment that the database shows another generation."""
    before, seen, over = _generation(server.folder), [], threading.Event()
    watcher, word = _Server(server.url, server.folder, []), _word(work)

    def look() -> None:
        while not over.wait(_LOOK) and _generation(server.folder) == before:
            pass
        began = time.monotonic()
        while not any(word in text for text in watcher.retrieve(word, _MOST)):
            if time.monotonic() > began + _PATIENCE:
                break
            time.sleep(_LOOK)
        seen.append(time.monotonic() - began)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _word(work: str) -> str:
    return f"{_MARKER}{work.replace(' ', '')}"


def _generation(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "knowledge.db", timeout=30)) as db:
        return read_generation(db)


@contextmanager
def _beside(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        ["nice", "-n", str(_NICE), *command], stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


def _real(server: _Server, options: Options) -> None:
    """The command line with the real model, whose embedding takes every processor it is given."""
    documents = options.work / "documents"
    documents.mkdir()
    for place in range(_REAL_FILES):
        (documents / f"{place}.txt").write_text(made_up(-place - 1), encoding="utf-8")
    quiet, busy = server.quiet(), []
    arguments = ["ingest", str(documents), "--kb", server.folder.name]
    environment = {"RAG_INDEXES": str(server.folder.parent)}
    with command_line(arguments, environment) as process:
        last = time.monotonic() + _REAL_SECONDS
        while process.poll() is None and time.monotonic() < last:
            busy += each(server.ask, range(_AT_ONCE))
    _compare("rag ingest", quiet, busy)


# --- the other process ----------------------------------------------------------------------------


def main() -> None:
    """`python -m benchmarks.busy FOLDER WORK COUNT`: vectors derived as in vectors.py."""
    folder, work, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    store = EmbeddedStore(Path(folder))
    fingerprint = store.fingerprint
    assert fingerprint is not None
    with store.writer(fingerprint, replacing=work == "reindex") as writer:
        with watched() as putting:
            put = _putting(store, writer)
            _change(writer, put, work, count)
        with watched() as publishing:
            writer.publish()
        print(json.dumps({"put": putting.seconds, "publish": publishing.seconds}), flush=True)
    store.close()


def _change(writer: StoreWriter, put: Callable[[int, str], None], work: str, count: int) -> None:
    if work == "delete":
        for place in range(count):
            writer.remove(one_chunk(place, "")[0].uri)
    else:
        first = _FIRST[work]
        for place in range(first, first + count):
            put(place, made_up(place))
    word = _word(work)
    document, chunk = one_chunk(-1, word)
    writer.put(document, [chunk], embedder().embed_documents([word]))


def _putting(store: EmbeddedStore, writer: StoreWriter) -> Callable[[int, str], None]:
    """Puts a document of one chunk, with a vector derived from three of those that are there."""
    import numpy as np

    with store.contents() as contents:
        there = np.vstack([vectors for _, _, vectors in islice(contents.rows, _PARENTS)])
    generator = np.random.default_rng(11)

    def put(place: int, text: str) -> None:
        parent, plus, minus = there[generator.integers(0, len(there), 3)]
        vector = parent + _MOVE * (plus - minus)
        document, chunk = one_chunk(place, text)
        writer.put(document, [chunk], (vector / np.linalg.norm(vector))[None, :])

    return put


if __name__ == "__main__":
    main()
