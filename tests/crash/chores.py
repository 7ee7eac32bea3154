"""Kills what keeps a knowledge base, at random moments: `python -m tests.crash.chores FOLDER CHORE
KILLS SEED`. As killer.py, for: rollback, gc, reindex, restore, repair, salvage."""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import faiss  # noqa: F401 - loaded once, before the forks
import numpy as np  # noqa: F401
import tantivy  # noqa: F401

from rag.errors import DamagedStoreError, RagError
from rag.ingest import Covers, Ingest, Plan
from rag.stores.embedded import EmbeddedStore
from rag.stores.embedded.repair import repair
from rag.stores.embedded.snapshot import backup, restore
from rag.stores.embedded.verify import verify
from rag.types import Fingerprint
from tests.crash.killer import finished, forked, killed, told
from tests.crash.world import Paragraphs, Shown, contents, difference, documents, ingest
from tests.fakes import FakeEmbedder

if TYPE_CHECKING:
    from rag.types import Matrix

SIZE = 24
KEEP = 5
_PAGE = 4096


@dataclass(frozen=True)
class Chore:
    """`prepare` is done once, before what is killed. `sound`: the knowledge base is, all along."""

    work: Callable[[Path], object]
    prepare: Callable[[Path], object] = lambda _place: None
    sound: bool = True


def rollback(place: Path) -> None:
    with closing(EmbeddedStore(place, keep_generations=KEEP)) as store:
        store.rollback(1)


def gc(place: Path) -> None:
    with closing(EmbeddedStore(place, keep_generations=KEEP)) as store:
        store.gc(0)


def reindex(place: Path) -> None:
    """To a model that differs by its name alone, so that it finds the same."""
    embedder = FakeEmbedder(model="another", dimension=16)
    run = Ingest(embedder=embedder, splitter=Paragraphs(), settings_key="")
    with (
        closing(EmbeddedStore(place)) as store,
        store.writer(embedder.fingerprint, replacing=True) as writer,
    ):
        run.run(Plan(documents("b", SIZE), covers=Covers(("",))), writer)


def mend(place: Path) -> None:
    repair(place, embed=_embed)


def _embed(fingerprint: Fingerprint, texts: Sequence[str]) -> Matrix:
    return FakeEmbedder(dimension=fingerprint.dimension).embed_documents(texts)


def lose_vectors(place: Path) -> None:
    """And a file of the keyword index."""
    with closing(EmbeddedStore(place)) as store, closing(store._db.connect()) as db, db:
        db.execute("DELETE FROM vectors WHERE chunk_id % 5 = 0")
    next(place.glob("keywords-*/*.store")).unlink()


def overwrite_a_page(place: Path) -> None:
    """One that makes the database unreadable as a whole, and leaves something to be saved."""
    path = place / "knowledge.db"
    whole = path.read_bytes()
    for page in range(len(whole) // _PAGE - 1, 1, -1):
        path.write_bytes(whole[: page * _PAGE] + b"\xff" * _PAGE + whole[(page + 1) * _PAGE :])
        trial = place.with_name("trial")
        shutil.copytree(place, trial)
        try:
            if any(f.kind == "database" for f in verify(trial).findings) and saved(trial):
                return
        finally:
            shutil.rmtree(trial)
    raise SystemExit("no page does it")


def saved(place: Path) -> bool:
    try:
        return repair(place, embed=_embed).kept is not None
    except DamagedStoreError:
        return False


def chores(folder: Path) -> dict[str, Chore]:
    kept = folder / "kept.zip"
    return {
        "rollback": Chore(rollback),
        "gc": Chore(gc),
        "reindex": Chore(reindex),
        "restore": Chore(lambda place: restore(kept, place, replace=True)),
        "repair": Chore(mend, lose_vectors, sound=False),
        "salvage": Chore(mend, overwrite_a_page, sound=False),
    }


def main(folder: Path, name: str, kills: int, seed: int) -> dict[str, object]:
    generator, chore, base = random.Random(seed), chores(folder)[name], folder / "base"
    finished(forked(lambda: prepare(folder, base, chore)))
    clean = folder / "clean"
    takes = min(clean_run(base, clean, chore) for _ in range(3))
    before = told(lambda: contents(folder / "before"), folder)
    after = told(lambda: ended(clean, chore), folder)
    done = at_work = 0
    wrong: list[str] = []
    while at_work < kills and not wrong:
        place = folder / f"run-{done}"
        shutil.copytree(base, place)
        for _ in range(generator.choice((1, 1, 2))):
            at_work += killed(partial(chore.work, place), generator.uniform(0, takes))
            done += 1
        wrong += told(partial(problems, place, chore, before, after), folder)
        shutil.rmtree(place)
    return {"kills": done, "at_work": at_work, "seconds": takes, "wrong": wrong}


def prepare(folder: Path, base: Path, chore: Chore) -> None:
    """Generation 1 is state "a", of which there is a backup, 2 is "b"."""
    ingest(base, "a", SIZE, keep=KEEP)
    backup(base, folder / "kept.zip")
    ingest(base, "b", SIZE, keep=KEEP)
    shutil.copytree(base, folder / "before")
    chore.prepare(base)


def clean_run(base: Path, clean: Path, chore: Chore) -> float:
    """Seconds."""
    shutil.rmtree(clean, ignore_errors=True)
    shutil.copytree(base, clean)
    began = time.monotonic()
    finished(forked(lambda: chore.work(clean)))
    return time.monotonic() - began


def ended(place: Path, chore: Chore) -> Shown:
    """What it shows when the chore is done; what a repair could not save is ingested again."""
    if not chore.sound:
        ingest(place, "b", SIZE, keep=KEEP)
    return contents(place)


def problems(place: Path, chore: Chore, before: Shown, after: Shown) -> list[str]:
    try:
        if chore.sound:
            found = contents(place)
            if found not in (before, after):
                return [f"neither before nor after: {difference(found, before)}"]
        chore.work(place)
        now = ended(place, chore)
        wrong = [f.what for f in verify(place).findings]
        return wrong if now == after else [*wrong, f"not as clean: {difference(now, after)}"]
    except RagError as error:
        return [f"{type(error).__name__}: {error}"]


if __name__ == "__main__":
    told_all = main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    sys.stdout.write(json.dumps(told_all))
