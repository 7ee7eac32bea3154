"""Copying a knowledge base from one kind of store to another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rag.application import ApplicationDatabase
from rag.errors import BusyError, FingerprintError, InputError, StoreError
from rag.migrate import CopyProgress, migrate
from rag.stores.embedded import EmbeddedStore
from rag.stores.milvus import MilvusStore, outbox
from rag.stores.milvus.verify import verify
from rag.types import Candidate, ChunkStore, Filters
from tests.fakes import FakeEmbedder
from tests.test_store_contract import EMBEDDER, MINE, Died, found, make, names, publish, put
from tests.test_store_milvus import _release

WORDS = ("年假", "hotel", "costs", "zebra", "病假", "laptop", "标签", "差旅")
Place = Callable[[str], ChunkStore]


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Place]:
    opened: list[ChunkStore] = []

    def open_at(name: str) -> ChunkStore:
        opened.append(EmbeddedStore(tmp_path / name))
        return opened[-1]

    yield open_at
    for store in opened:
        store.close()


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[ChunkStore]:
    database = ApplicationDatabase(f"sqlite:///{tmp_path / 'rag.db'}")
    store = MilvusStore(
        "base", database, uri=str(tmp_path / "milvus.db"), folder=tmp_path / "milvus", timeout=30
    )
    yield store
    store.close()


def fill(store: ChunkStore, documents: int = 30) -> None:
    publish(
        store,
        *(
            (f"{n}.md", *(f"{WORDS[(n + i) % 8]} {WORDS[n % 8]} {n} {i}" for i in range(n % 4)))
            for n in range(documents)
        ),
    )


def same(one: ChunkStore, other: ChunkStore) -> bool:
    return all(
        {i.id: one.chunks(i.id) for i in one.documents()}
        == {i.id: other.chunks(i.id) for i in other.documents()}
        and [one.document(i.id) for i in one.documents()]
        == [other.document(i.id) for i in other.documents()]
        and found(one, word) == found(other, word)
        for word in WORDS
    )


def test_a_copy_holds_and_finds_what_the_original_does_without_embedding(embedded: Place) -> None:
    source, target = embedded("source"), embedded("target")
    fill(source)
    calls = EMBEDDER.calls
    told: list[CopyProgress] = []
    verified = migrate(source, target, on_progress=told.append, clock=lambda: 7.0)
    assert EMBEDDER.calls == calls
    assert same(source, target)
    assert (verified.documents, verified.copied, verified.kept, verified.removed) == (30, 30, 0, 0)
    assert verified.chunks == sum(i.chunks for i in source.documents()) == told[-1].chunks_done
    assert (verified.dense_overlap, verified.keyword_overlap) == (1.0, 1.0)
    assert verified.sampled == 22
    assert (verified.generation, target.generation, verified.seconds) == (1, 1, 0.0)
    assert [p.documents_done for p in told] == sorted(p.documents_done for p in told)


def test_a_second_copy_brings_only_what_changed(embedded: Place) -> None:
    source, target = embedded("source"), embedded("target")
    fill(source)
    migrate(source, target)
    publish(source, ("new.md", "新的 hotel"), remove=["1.md"])
    with source.writer(MINE) as writer:
        put(writer, "2.md", "another text", version="2")
        writer.publish()
    source.refresh()
    verified = migrate(source, target)
    assert (verified.copied, verified.kept, verified.removed) == (2, 28, 1)
    assert same(source, target)
    again = migrate(source, target)
    assert (again.copied, again.generation) == (0, verified.generation)


def test_a_copy_that_broke_off_goes_on_and_shows_nothing_before(
    embedded: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = embedded("source"), embedded("target")
    fill(source)

    def die(progress: CopyProgress) -> None:
        if progress.documents_done == 11:
            raise Died

    with pytest.raises(Died):
        migrate(source, target, on_progress=die)
    assert names(target) == []
    verified = migrate(source, target)
    assert (verified.copied, verified.kept) == (19, 11)
    assert same(source, target)


def test_an_empty_knowledge_base_is_not_copied(embedded: Place) -> None:
    with pytest.raises(InputError, match="nothing to copy"):
        migrate(embedded("source"), embedded("target"))


def test_neither_side_may_be_written_to_meanwhile(embedded: Place) -> None:
    source, target = embedded("source"), embedded("target")
    fill(source)
    for busy in (embedded("source"), embedded("target")):
        with busy.writer(MINE), pytest.raises(BusyError):
            migrate(source, target)


def test_other_vectors_are_replaced_only_if_that_is_asked_for(embedded: Place) -> None:
    source, target = embedded("source"), embedded("target")
    fill(source)
    other = FakeEmbedder(model="other", dimension=32)
    with target.writer(other.fingerprint) as writer:
        document, chunks = source.document("id-1.md"), source.chunks("id-1.md")
        writer.put(document, chunks, other.embed_documents([c.embedded_text for c in chunks]))
        writer.publish()
    with pytest.raises(FingerprintError, match="other"):
        migrate(source, target)
    migrate(source, target, replacing=True)
    assert target.fingerprint == MINE
    assert same(source, target)


class Forgetful(EmbeddedStore):
    """Finds only what it happens to find."""

    def search(
        self, question: str, vector: object, *, limit: int, filters: Filters = Filters()
    ) -> list[Candidate]:
        found = super().search(question, vector, limit=limit, filters=filters)  # type: ignore[arg-type]
        return found[::2]


def test_a_copy_that_finds_less_is_an_error(embedded: Place, tmp_path: Path) -> None:
    source = embedded("source")
    fill(source)
    target = Forgetful(tmp_path / "target")
    with pytest.raises(StoreError, match=r"best ten \d\d") as caught:
        migrate(source, target)
    assert caught.value.hint
    target.close()


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_to_milvus_and_back(embedded: Place, lite: ChunkStore) -> None:
    source, back = embedded("source"), embedded("back")
    fill(source)
    there = migrate(source, lite)
    assert same(source, lite)
    assert (there.documents, there.dense_overlap) == (30, 1.0)
    migrate(lite, back)
    assert same(source, back)


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_only_what_is_published_is_copied_and_earlier_generations_stay_behind(
    embedded: Place, tmp_path: Path
) -> None:
    database = ApplicationDatabase(f"sqlite:///{tmp_path / 'rag.db'}")
    options = {"uri": str(tmp_path / "milvus.db"), "folder": tmp_path / "milvus"}
    there = MilvusStore("base", database, **options, timeout=30, keep_generations=3)  # type: ignore[arg-type]
    source = EmbeddedStore(tmp_path / "source", keep_generations=3)
    fill(source)
    document, chunks = make("folder/ü 标签.md", "年假", "hotel", tags=("hr", "标签"), version="7")
    with source.writer(MINE) as writer:
        writer.put(document, chunks, EMBEDDER.embed_documents([c.embedded_text for c in chunks]))
        writer.remove("file:3.md")
        writer.publish()
    publish(source, ("4.md", "later"))
    source.rollback(2)
    calls = EMBEDDER.calls
    assert migrate(source, there).documents == 30
    assert same(source, there)
    publish(there, ("5.md", "later there"), remove=["6.md"])
    there.rollback()
    assert len(there.generations()) == 3
    back = embedded("back")
    migrate(there, back)
    assert EMBEDDER.calls == calls + 1 + 2 * len(WORDS)  # one text, and the questions of `same`
    assert same(there, back)
    assert same(source, back)
    assert len(back.generations()) == 1  # type: ignore[attr-defined]
    assert back.document(document.id) == document
    (info,) = back.documents(Filters(tags=("标签",)))
    assert (info.id, info.uri, info.tags) == (document.id, document.uri, document.tags)
    assert (info.content_hash, info.settings_hash) == ("7", "s")
    source.close()
    there.close()


_MIGRATE = """
import os, signal, sys
from pathlib import Path
from rag.migrate import migrate
from tests.test_migrate import open_both
source, target = open_both(Path(sys.argv[1]), back=sys.argv[2] == "back")
def die(progress):
    if progress.documents_done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
print(migrate(source, target, on_progress=die))
"""


def open_both(place: Path, *, back: bool) -> tuple[ChunkStore, ChunkStore]:
    outbox._INSERT = 4  # so that some are in Milvus, and some on the way there
    here = EmbeddedStore(place / ("back" if back else "source"))
    database = ApplicationDatabase(f"sqlite:///{place / 'rag.db'}")
    uri = str(place / "milvus.db")
    there = MilvusStore("base", database, uri=uri, folder=place / "caches", timeout=30)
    return (there, here) if back else (here, there)


def migrate_killed(place: Path, way: str, after: int) -> None:
    command = [sys.executable, "-c", _MIGRATE, str(place), way, str(after)]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_a_killed_copy_goes_on_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_INSERT", 4)
    here = EmbeddedStore(tmp_path / "source")
    fill(here)
    here.close()
    for after in (9, 20):
        migrate_killed(tmp_path, "there", after)
    source, target = open_both(tmp_path, back=False)
    assert names(target) == []
    verified = migrate(source, target)
    assert (verified.copied, verified.kept, verified.documents) == (10, 20, 30)
    assert isinstance(target, MilvusStore)
    assert verify(target).findings == ()
    assert same(source, target)
    target.close()
    _release(str(tmp_path / "milvus.db"))
    migrate_killed(tmp_path, "back", 17)
    there, back = open_both(tmp_path, back=True)
    verified = migrate(there, back)
    assert (verified.copied, verified.kept, verified.documents) == (13, 17, 30)
    assert same(source, back)
    for each in (source, there, back):
        each.close()
