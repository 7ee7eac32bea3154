"""The embedded store at its largest: opening it, its memory, and what one more file costs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.options import Options
from benchmarks.probe import TOKEN, add_file, remove_files
from benchmarks.report import figure, p50, title, watched
from benchmarks.stage import built
from benchmarks.vectors import question_vectors
from rag.stores.embedded import EmbeddedStore

_TIMES = 5


def run(options: Options) -> None:
    size = max(options.sizes)
    folder = built(options, size)
    title(f"The store at {size:,} chunks")
    opened = [_probe("open", folder) for _ in range(3)]
    figure("opening it in a new process", p50(o["seconds"] for o in opened), "s")
    figure("memory of that process above an empty one", p50(o["mb"] for o in opened), "MB")
    store = EmbeddedStore(folder)
    store.refresh()
    _, vectors = question_vectors(options, 1)
    same, other, seen = [], [], []
    for time in range(_TIMES):
        with watched() as adding:
            add_file(store, f"same-{time}")
            store.refresh()
        same.append(adding.seconds)
        other.append(_probe("add", folder, f"other-{time}")["seconds"])
        with watched() as following:
            store.refresh()
        seen.append(following.seconds)
    found = store.search(TOKEN, vectors[0], limit=_TIMES * 20)
    if sum(c.keyword > 0 for c in found) < 2 * _TIMES:
        raise SystemExit("What was added is not found.")
    with watched() as removing:
        remove_files(store)
        store.refresh()
    store.close()
    figure("adding a file of 10 chunks, searchable after", 1000 * p50(same), "ms")
    figure("the same in another process (open, write, publish)", 1000 * p50(other), "ms")
    figure("this process seeing it", 1000 * p50(seen), "ms", "< 1000")
    figure(f"removing {2 * _TIMES} files", 1000 * removing.seconds, "ms")


def _probe(*arguments: str | Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.probe", *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result
