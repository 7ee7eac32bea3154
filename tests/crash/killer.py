"""Kills ingests at random moments: `python -m tests.crash.killer FOLDER KILLS SEED`.

Every ingest is a process of its own, forked from this one, which has loaded all libraries and
started no thread. Goes on until KILLS of them were still at work. Prints one JSON object: what was
done, and what was wrong afterwards.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import faiss  # noqa: F401 - loaded once, before the forks
import numpy as np  # noqa: F401
import tantivy  # noqa: F401

from rag.stores.embedded import EmbeddedStore
from tests.crash.world import Shown, contents, ingest, problems_after, searches

SIZE = 24


def forked(work: Callable[[], object]) -> int:
    process = os.fork()
    if process:
        return process
    try:
        work()
        os._exit(0)
    except BaseException:  # noqa: BLE001 - a child must not go on in its parent's place
        traceback.print_exc()
        os._exit(1)


def finished(process: int) -> None:
    _, status = os.waitpid(process, 0)
    if status:
        raise SystemExit(f"a child ended with {status}")


def told(work: Callable[[], object], folder: Path) -> object:
    """What a child found out."""
    answer = folder / "answer.json"
    finished(forked(lambda: answer.write_text(json.dumps(work()))))
    return json.loads(answer.read_text())


def killed(work: Callable[[], object], after: float) -> bool:
    """Whether it was still at work."""
    process = forked(work)
    time.sleep(after)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return os.WIFSIGNALED(status)


def watch(place: Path, before: Shown, after: Shown, until: Path, answer: Path) -> None:
    """Reads all the time, and must see whole generations. A publish may come between two of the
    questions, so each is looked at for itself."""
    store, looked, wrong = EmbeddedStore(place), 0, []
    while not until.exists() and not wrong:
        store.refresh()
        for asked, hits in enumerate(searches(store)):
            if hits not in (before["searches"][asked], after["searches"][asked]):
                wrong.append(f"a reader sees half of a generation: {hits[:3]}")
        looked += 1
    store.close()
    answer.write_text(json.dumps([looked, wrong]))


def main(folder: Path, kills: int, seed: int) -> dict[str, object]:
    generator = random.Random(seed)
    base, clean = folder / "a", folder / "b"
    finished(forked(lambda: ingest(base, "a", SIZE)))
    takes = min(clean_run(base, clean) for _ in range(3))
    # As JSON makes it, so that the answers of children can be compared.
    before, after = (told(lambda p=p: contents(p), folder) for p in (base, clean))
    until, answer = folder / "until", folder / "seen.json"
    done = at_work = looked = 0
    wrong: list[str] = []
    while at_work < kills and not wrong:
        place = folder / f"run-{done}"
        shutil.copytree(base, place)
        until.unlink(missing_ok=True)
        reader = None
        if generator.random() < 0.25:
            reader = forked(lambda p=place: watch(p, before, after, until, answer))
        for _ in range(generator.choice((1, 1, 1, 2, 3))):
            at_work += killed(lambda p=place: ingest(p, "b", SIZE), generator.uniform(0, takes))
            done += 1
        wrong += told(lambda p=place: problems(p, before, after), folder)
        if reader is not None:
            until.touch()
            finished(reader)
            times, half = json.loads(answer.read_text())
            looked += times
            wrong += half
        shutil.rmtree(place)
    return {"kills": done, "at_work": at_work, "seconds": takes, "looked": looked, "wrong": wrong}


def clean_run(base: Path, clean: Path) -> float:
    """Seconds."""
    shutil.rmtree(clean, ignore_errors=True)
    shutil.copytree(base, clean)
    began = time.monotonic()
    finished(forked(lambda: ingest(clean, "b", SIZE)))
    return time.monotonic() - began


def problems(place: Path, before: Shown, after: Shown) -> list[str]:
    return problems_after(place, SIZE, [before, after], after)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
