"""Kills ingests into Milvus Lite, and now and then a rollback or a gc, at random moments:
`python -m tests.crash.milvus_killer FOLDER KILLS SEED`.

Goes on until KILLS of them were still at work. Prints one JSON object: what was done, and what was
wrong afterwards.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc  # noqa: F401 - loaded once, before the forks
import pymilvus  # noqa: F401
import sqlalchemy
import tantivy  # noqa: F401

from rag.application import ApplicationDatabase
from rag.errors import NotFoundError, RagError
from rag.ingest import Covers, Ingest, Plan
from rag.stores.milvus import MilvusStore, outbox
from rag.stores.milvus.verify import verify
from tests.crash.killer import finished, forked, killed, told
from tests.crash.world import Paragraphs, Shown, difference, documents, shown
from tests.fakes import FakeEmbedder

SIZE = 24


def opened(place: Path) -> MilvusStore:
    outbox._INSERT = 5  # so that there are many moments between two sends
    database = ApplicationDatabase(f"sqlite:///{place / 'rag.db'}")
    uri = str(place / "milvus.db")
    options: dict[str, Any] = {"folder": place / "caches", "timeout": 30.0, "keep_generations": 1}
    return MilvusStore("base", database, uri=uri, **options)


def ingest(place: Path, state: str) -> None:
    place.mkdir(exist_ok=True)
    embedder = FakeEmbedder(dimension=16)
    store = opened(place)
    with store.writer(embedder.fingerprint) as writer:
        run = Ingest(embedder=embedder, splitter=Paragraphs(), settings_key="")
        run.run(Plan(documents(state, SIZE), covers=Covers(("",))), writer)
    store.close()


def roll_back(place: Path) -> None:
    store = opened(place)
    with suppress(NotFoundError):  # nothing else was published
        store.rollback()
    store.close()


def let_go(place: Path) -> None:
    store = opened(place)
    store.gc(keep=0)
    store.close()


def contents(place: Path) -> Shown:
    store = opened(place)
    try:
        return shown(store)  # type: ignore[arg-type]
    finally:
        store.close()


def problems(place: Path, before: list[Shown], after: Shown) -> list[str]:
    """What is wrong after an ingest of state "b" broke off: it must show one of `before` as it is,
    and exactly `after` when the ingest was run again, with nothing else in Milvus or the records
    than what the generations show that are kept."""
    try:
        found = contents(place)
        if found not in before:
            return [f"neither before nor after: {difference(found, before[0])}"]
        ingest(place, "b")
        now = contents(place)
        store = opened(place)
        wrong = [finding.what for finding in verify(store).findings]
        if now != after:
            wrong.append(f"not as clean: {difference(now, after)}")
        wrong += _too_much(store)
        store.close()
    except RagError as error:
        return [f"{type(error).__name__}: {error}"]
    return wrong


def _too_much(store: MilvusStore) -> list[str]:
    with store.records.part.reading() as connection:
        count = {
            name: connection.execute(sqlalchemy.text(f"SELECT count(*) FROM {name}")).scalar_one()
            for name in ("store_documents", "store_chunks", "store_waiting", "store_dead")
        }
    kept = store.generations()
    (name,) = store.milvus.names("rag_")
    rows = store.milvus.count(name)
    wrong = []
    if count["store_waiting"] or count["store_dead"] or rows != count["store_chunks"]:
        wrong.append(f"{rows} rows in Milvus, {count} in the records")
    if sum(g.documents for g in kept) < count["store_documents"]:
        wrong.append(f"{count['store_documents']} documents for {kept}")
    return wrong


def main(folder: Path, kills: int, seed: int) -> dict[str, object]:
    generator = random.Random(seed)
    base, clean = folder / "a", folder / "b"
    finished(forked(lambda: ingest(base, "a")))
    takes = min(_clean_run(base, clean) for _ in range(2))
    before, after = (told(lambda p=p: contents(p), folder) for p in (base, clean))
    done = at_work = 0
    wrong: list[str] = []
    while at_work < kills and not wrong:
        place = folder / f"run-{done}"
        shutil.copytree(base, place)
        for _ in range(generator.choice((1, 1, 2, 3))):
            work = generator.choice((*[lambda p: ingest(p, "b")] * 4, roll_back, let_go))
            at_work += killed(lambda p=place, w=work: w(p), generator.uniform(0, takes))
            done += 1
        wrong += told(lambda p=place: problems(p, [before, after], after), folder)
        shutil.rmtree(place)
    return {"kills": done, "at_work": at_work, "seconds": takes, "wrong": wrong}


def _clean_run(base: Path, clean: Path) -> float:
    """Seconds."""
    shutil.rmtree(clean, ignore_errors=True)
    shutil.copytree(base, clean)
    began = time.monotonic()
    finished(forked(lambda: ingest(clean, "b")))
    return time.monotonic() - began


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
