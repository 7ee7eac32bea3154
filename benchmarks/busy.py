"""Retrieval while another process ingests 100,000 chunks, beside the same questions before it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.asker import retriever_of
from benchmarks.corpus import made_up
from benchmarks.options import Options
from benchmarks.report import each, figure, note, p95, title, watched
from benchmarks.stage import built, one_chunk
from benchmarks.vectors import question_vectors
from rag.stores.embedded import EmbeddedStore

_SIZE = 100_000
_COUNT = 100_000
_QUESTIONS = 300
_QUIET_ROUNDS = 5
_PAUSE = 0.01  # between questions: a reader that never rests would measure the scheduler
_TOP = 5
_FOLLOW = 0.3  # seconds, as a server looks for what others have published
_LOOK = 0.02
_NICE = 10  # as `rag ingest` makes itself


def run(options: Options) -> None:
    folder = built(options, _SIZE)
    title(f"Retrieval while another process ingests {_COUNT:,} chunks (into {_SIZE:,})")
    asked, vectors = question_vectors(options, _QUESTIONS)
    store = EmbeddedStore(folder)
    store.refresh()
    retriever = retriever_of(store, asked, vectors)

    def ask(place: int) -> None:
        time.sleep(_PAUSE)
        retriever.retrieve(asked[place % len(asked)], top_k=_TOP)

    each(ask, range(len(asked)))
    quiet = each(ask, range(_QUIET_ROUNDS * len(asked)))
    busy: list[float] = []
    with _following(store) as seen, _ingesting(folder) as ingest:
        while ingest.poll() is None:
            busy += each(ask, range(20))
        assert ingest.stdout is not None
        said = json.loads(ingest.stdout.read())
    store.close()
    before, during = p95(quiet) - 1000 * _PAUSE, p95(busy) - 1000 * _PAUSE
    note(
        f"ingest: {said['put']:.0f} s writing, {said['publish']:.1f} s publishing;"
        f" {len(busy):,} questions meanwhile"
    )
    figure("quiet, p95", before, "ms")
    figure("during the ingest, p95", during, "ms")
    figure("during over quiet", during / before, "x", "<= 1.5")
    figure("longest of all questions meanwhile", max(busy) - 1000 * _PAUSE, "ms")
    figure("from its publishing until questions see it", max(seen), "s", "<= 1")


@contextmanager
def _following(store: EmbeddedStore) -> Iterator[list[float]]:
    """Moves on as a server does; the seconds that this took after each publishing."""
    over, seen = threading.Event(), [0.0]

    def follow() -> None:
        published, rests = store.generation, 0
        while not over.wait(_LOOK):
            rests += 1
            if store.generation != published:
                began, published = time.monotonic() - _LOOK, store.generation
                over.wait(max(0.0, _FOLLOW - rests * _LOOK))
                store.refresh()
                seen.append(time.monotonic() - began)
            if rests * _LOOK >= _FOLLOW:
                rests = 0

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@contextmanager
def _ingesting(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = ["nice", "-n", str(_NICE), sys.executable, "-m", "benchmarks.busy", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process


def main() -> None:
    """The ingest: texts with derived vectors, through the store's writer."""
    import numpy as np

    store = EmbeddedStore(Path(sys.argv[1]))
    fingerprint = store.fingerprint
    assert fingerprint is not None
    generator = np.random.default_rng(11)
    with store.writer(fingerprint) as writer:
        with watched() as putting:
            for place in range(_SIZE, _SIZE + _COUNT):
                vector = generator.standard_normal((1, fingerprint.dimension)).astype(np.float32)
                document, chunk = one_chunk(place, made_up(place))
                writer.put(document, [chunk], vector / np.linalg.norm(vector))
        with watched() as publishing:
            writer.publish()
        print(json.dumps({"put": putting.seconds, "publish": publishing.seconds}), flush=True)
    store.close()


if __name__ == "__main__":
    main()
