"""What keeps a knowledge base in Milvus sound: looking through it, mending it, deleting it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from rag.application import ApplicationDatabase
from rag.errors import BusyError, DamagedStoreError, NotFoundError, StoreError
from rag.stores.indexes.keywords import index_folder
from rag.stores.milvus import MilvusStore, contents, destroy, knowledge_bases
from rag.stores.milvus.repair import repair
from rag.stores.milvus.vectors import Milvus, Rows
from rag.stores.milvus.verify import verify
from rag.types import Fingerprint
from tests.fakes import FakeEmbedder
from tests.test_generations import KEEP, NEW, OLD, found_by, reindex
from tests.test_milvus_generations import open_lite
from tests.test_store_contract import (  # noqa: F401 - the fixture
    MINE,
    Died,
    found,
    milvus_server,
    names,
    publish,
    put,
)
from tests.test_store_milvus import open_at, rows_in_milvus

Open = Callable[..., MilvusStore]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    stores: list[MilvusStore] = []

    def open_one(**options: Any) -> MilvusStore:
        stores.append(open_lite(tmp_path, **options))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Open) -> MilvusStore:
    return opened()


class Counting:
    """Embeds as the fake does, and notes what."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, fingerprint: Fingerprint, texts: Sequence[str]) -> Any:
        embedder = {e.fingerprint: e for e in (OLD, NEW)}[fingerprint]
        self.texts += texts
        return FakeEmbedder(
            model=embedder.fingerprint.model, dimension=embedder.fingerprint.dimension
        ).embed_documents(texts)


def never(_: Fingerprint, texts: Sequence[str]) -> Any:
    raise AssertionError(f"embedded {texts}")


def collection(store: MilvusStore) -> str:
    view = store.views.current()
    assert view is not None
    return view.collection


def ids_of(store: MilvusStore, name: str) -> list[int]:
    """Of a document's chunks, in order."""
    with store.records.part.reading() as connection:
        rows = connection.execute(
            sa.text(
                "SELECT c.id FROM store_chunks c JOIN store_documents d ON d.key = c.document_key"
                " WHERE d.id = :id ORDER BY c.ordinal"
            ),
            {"id": f"id-{name}".encode()},
        )
        return [int(i) for i in rows.scalars()]


def change(store: MilvusStore, statement: str, **values: Any) -> None:
    with store.records.part.writing() as connection:
        assert connection.execute(sa.text(statement), values).rowcount


def whats(store: MilvusStore) -> str:
    return " ".join(finding.what for finding in verify(store).findings)


# --- looking without touching ---------------------------------------------------------------------


def test_looking_for_a_knowledge_base_makes_nothing(tmp_path: Path) -> None:
    store = open_lite(tmp_path)
    assert (store.generation, store.fingerprint, store.generations()) == (0, None, [])
    assert not store.refresh()
    assert found(store, "?") == {}
    assert (names(store), list(store.known()), store.fetch([1])) == ([], [], {})
    assert (store.gc().documents, store.measure_recall(), store.last_recall()) == (0, None, None)
    with store.contents() as nothing:
        assert (nothing.fingerprint, list(nothing.rows)) == (None, [])
    for act in (verify, lambda s: repair(s, embed=never), MilvusStore.rollback):
        with pytest.raises(NotFoundError):
            act(store)  # type: ignore[operator]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.postgres
def test_one_that_was_only_looked_at_or_not_filled_is_not_listed(
    tmp_path: Path, postgres_url: str
) -> None:
    database = ApplicationDatabase(postgres_url)
    before = knowledge_bases(database)
    for name in ("looked-at", "opened-to-write", "staged"):
        store = MilvusStore(name, database, uri="http://127.0.0.1:1", folder=tmp_path)
        names(store)
        if name != "looked-at":
            with store.writer(MINE) as writer:
                if name == "staged":
                    put(writer, "a.md", "年假")
    assert set(knowledge_bases(database)) - set(before) == {"staged"}
    database.close()


# --- verify ---------------------------------------------------------------------------------------


def fill(store: MilvusStore) -> None:
    """Three generations, of two models, and something staged."""
    publish(store, ("a.md", "年假", "hotel"), ("b.md", "costs", "年假 again"), ("c.md",))
    publish(store, ("a.md", "年假 new", "hotel"), remove=["b.md"])
    reindex(store, NEW)
    store.rollback(1)
    with store.writer(MINE) as writer:
        put(writer, "staged.md", "staged")
        writer._outbox.send()
        put(writer, "waiting.md", "waiting")


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_a_sound_one_is_counted_whole(store: MilvusStore, opened: Open, tmp_path: Path) -> None:
    fill(store)
    for each in (store, opened(), opened(folder=tmp_path / "elsewhere")):
        told = verify(each)
        assert told.findings == ()
        assert (told.generation, told.documents, told.chunks) == (4, 3, 4)
        assert (told.vectors, told.in_vector_index, told.in_keyword_index) == (4, 4, 4)
    assert repair(store, embed=never).done == []
    assert store.generation == 4


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_nothing_is_found_wrong_while_another_writes(store: MilvusStore, opened: Open) -> None:
    fill(store)
    stop, turns = threading.Event(), []
    told: list[object] = []

    def write() -> None:
        with opened().writer(MINE) as writer:
            while not stop.is_set():
                for n in range(5):
                    put(writer, f"{n}.md", *(f"zebra {n} {len(turns)} {i}" for i in range(4)))
                    writer._outbox.send()
                writer.remove("file:3.md")
                turns.append(1)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        while thread.is_alive() and len(turns) < 3:
            told += verify(store).findings
    finally:
        stop.set()
        thread.join()
    assert told == []
    assert len(turns) >= 3


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_lost_and_changed_vectors_are_named_and_made_again(store: MilvusStore) -> None:
    fill(store)
    before = found_by(OLD, store, "年假")
    lost, changed, *_ = [ids_of(store, "a.md")[0], *ids_of(store, "b.md")]
    store.milvus.delete(collection(store), [lost])
    other = OLD.embed_documents(["something else"])
    store.milvus.insert(collection(store), Rows([changed], [1], [1], other), again=True)
    told = verify(store)
    assert [(f.kind, f.document, f.chunk) for f in told.findings] == [
        ("vector", "a.md", 0),
        ("vector", "b.md", 0),
    ]
    assert (told.vectors, told.in_vector_index) == (2, 3)
    embed = Counting()
    done = repair(store, embed=embed)
    assert sorted(embed.texts) == ["Title of a.md\n年假", "Title of b.md\ncosts"]
    assert (done.embedded, len(done.done), done.read_again) == (2, 2, [])
    assert verify(store).ok
    assert found_by(OLD, store, "年假") == pytest.approx(before, abs=1e-6)


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_a_vector_of_the_same_text_is_taken_instead_of_embedding(store: MilvusStore) -> None:
    fill(store)
    there = store.milvus.present(collection(store), ids_of(store, "a.md"))
    first, second = (i for i in ids_of(store, "a.md")[3:] if i in there)  # "hotel", in two versions
    store.milvus.delete(collection(store), [first])
    assert repair(store, embed=never).embedded == 0
    assert verify(store).ok
    (one,) = store.milvus.vectors(collection(store), [first], 0).values()
    (two,) = store.milvus.vectors(collection(store), [second], 0).values()
    assert np.array_equal(one, two)


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_a_collection_that_is_gone_is_filled_again_and_each_text_embedded_once(
    store: MilvusStore, tmp_path: Path
) -> None:
    fill(store)
    before = found_by(OLD, store, "年假"), rows_in_milvus(tmp_path)
    for name in store.milvus.names("rag_"):
        store.milvus.drop(name)
    assert len(verify(store).findings) >= 4
    embed = Counting()
    repair(store, embed=embed)
    texts = [f"Title of a.md\n{t}" for t in ("年假", "年假 new", "hotel")]
    texts += [f"Title of b.md\n{t}" for t in ("costs", "年假 again")]
    texts += ["Title of staged.md\nstaged"]
    assert sorted(embed.texts) == sorted(
        [*texts, *(f"Title of a.md\n{t}" for t in ("年假 new", "hotel"))]
    )
    assert verify(store).ok
    assert found_by(OLD, store, "年假") == pytest.approx(before[0], abs=1e-6)
    assert sorted(rows_in_milvus(tmp_path)) == sorted(before[1])
    store.rollback(3)
    assert set(found_by(NEW, store, "年假")) == {"年假 new", "hotel"}


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_a_repair_that_dies_is_gone_on_with(
    store: MilvusStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    store.milvus.delete(collection(store), ids_of(store, "a.md") + ids_of(store, "b.md"))
    insert = Milvus.insert

    def dying(self: Milvus, *arguments: Any, **options: Any) -> None:
        insert(self, *arguments, **options)
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Milvus, "insert", dying)
        with pytest.raises(Died):
            repair(store, embed=Counting())
    repair(store, embed=Counting())
    assert verify(store).ok
    assert set(found(store, "年假")) == {"年假", "hotel", "costs", "年假 again"}


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_rows_of_milvus_that_belong_to_nothing_are_named_and_deleted(
    store: MilvusStore, tmp_path: Path
) -> None:
    fill(store)
    vectors = OLD.embed_documents(["one", "two"])
    held = rows_in_milvus(tmp_path)
    store.milvus.insert(
        collection(store), Rows([7_000_001, 7_000_002], [99, 99], [1, 1], vectors), again=False
    )
    assert "2 rows of the collection" in whats(store)
    assert set(found(store, "年假", limit=1)) <= {"年假", "年假 again", "hotel", "costs"}
    assert repair(store, embed=never).done
    assert verify(store).ok
    assert rows_in_milvus(tmp_path) == held


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_a_document_whose_records_are_wrong_is_taken_out_and_told(store: MilvusStore) -> None:
    fill(store)
    (first, *_) = ids_of(store, "b.md")
    change(store, "UPDATE store_chunks SET text = :t WHERE id = :i", t=b"changed", i=first)
    assert "b.md" in whats(store)
    done = repair(store, embed=never)
    assert done.read_again == ["b.md"]
    assert verify(store).ok
    assert store.generation == 5
    assert names(store) == ["a.md", "c.md"]
    assert found(store, "年假") == {"年假": "a.md", "hotel": "a.md"}
    with store.writer(MINE) as writer:
        assert {"file:staged.md", "file:waiting.md"} <= set(writer.known())
        assert "file:b.md" not in set(writer.known())


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_a_wrong_keyword_index_is_named_and_made_again(store: MilvusStore, opened: Open) -> None:
    fill(store)
    place = index_folder(store.caches)
    file = max((p for p in place.iterdir() if p.suffix != ".json"), key=lambda p: p.stat().st_size)
    file.write_bytes(file.read_bytes()[:-10])
    another = opened()
    assert "keyword index" in whats(another)
    assert "keyword index" in " ".join(repair(another, embed=never).done)
    assert verify(another).ok
    assert set(found(another, "年假")) == {"年假", "hotel", "costs", "年假 again"}


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_recall_is_measured_on_the_vectors_there_are(store: MilvusStore) -> None:
    publish(store, *((f"{n}.md", f"zebra {n}", f"hotel {n}") for n in range(30)))
    publish(store, remove=["1.md"])
    recall = store.measure_recall(20)
    assert recall is not None
    assert recall.recall_at_10 >= 0.99
    assert (recall.questions, recall.chunks, recall.generation) == (20, 58, 2)
    assert store.last_recall() == recall


# --- contents -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_contents_are_of_one_generation_while_it_is_kept(
    store: MilvusStore, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "_CHUNKS", 2)
    publish(store, *((f"{n}.md", f"zebra {n}", f"hotel {n}") for n in range(5)), ("empty.md",))
    reader = opened()
    with reader.contents() as read:
        assert (read.documents, read.chunks, read.fingerprint) == (6, 10, MINE)
        rows = [next(read.rows)]
        publish(store, ("4.md", "other"), remove=["2.md", "3.md"])
        store.rollback()
        rows += read.rows
    assert [document.name for document, _, _ in rows] == [
        *(f"{n}.md" for n in range(5)),
        "empty.md",
    ]
    for document, chunks, vectors in rows:
        assert chunks == store.chunks(document.id)
        assert vectors.shape == (len(chunks), 64)
        for chunk, vector in zip(chunks, vectors, strict=True):
            assert np.allclose(vector, OLD.embed_query(chunk.embedded_text), atol=1e-6)


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_contents_that_are_deleted_meanwhile_are_an_error_not_a_part(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "_CHUNKS", 2)
    store = opened(keep_generations=0)
    publish(store, *((f"{n}.md", f"zebra {n}", f"hotel {n}") for n in range(5)))
    with store.contents() as read:
        next(read.rows)
        publish(store, remove=["4.md"])
        with pytest.raises(BusyError, match="no longer kept") as caught:
            list(read.rows)
    assert "Try again" in caught.value.hint


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_contents_without_a_vector_are_an_error(store: MilvusStore) -> None:
    publish(store, ("a.md", "年假", "hotel"))
    store.milvus.delete(collection(store), ids_of(store, "a.md")[:1])
    with store.contents() as read, pytest.raises(DamagedStoreError) as caught:
        list(read.rows)
    assert "rag repair" in caught.value.hint


# --- deleting a whole one -------------------------------------------------------------------------


def left(store: MilvusStore) -> dict[str, int]:
    with store.records.part.reading() as connection:
        tables = [t.name for t in store.records.tables.bases.metadata.sorted_tables]
        counts = {
            t: connection.execute(sa.text(f"SELECT count(*) FROM {t}")).scalar_one() for t in tables
        }
    return {table: rows for table, rows in counts.items() if rows}


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_one_that_is_deleted_leaves_nothing(
    store: MilvusStore, opened: Open, tmp_path: Path
) -> None:
    reader = opened()
    fill(store)
    assert len(found(reader, "年假")) == 4
    caches = store.caches
    assert caches.exists()
    store.destroy()
    assert left(store) == {}
    assert rows_in_milvus(tmp_path) == []
    assert not caches.exists()
    assert reader.refresh()
    for each in (store, reader, opened()):
        assert (names(each), found(each, "年假"), each.generation) == ([], {}, 0)
    store.destroy()
    publish(store, ("new.md", "年假 of another"))
    reader.refresh()
    assert found(reader, "年假") == {"年假 of another": "new.md"}


@pytest.mark.slow
@pytest.mark.milvus_lite
@pytest.mark.parametrize("step", ["drop", "delete_documents"])
def test_a_deletion_that_dies_shows_nothing_and_is_gone_on_with(
    step: str, store: MilvusStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(*_: object, **__: object) -> int:
        raise Died

    fill(store)
    with monkeypatch.context() as patch:
        if step == "drop":
            patch.setattr(Milvus, "drop", dying)
        else:
            patch.setattr(destroy, step, dying)
        with pytest.raises(Died):
            store.destroy()
    assert names(store) == []
    publish(store, ("new.md", "年假 of another"))
    assert store.records.name == "base"
    store.gc()
    assert rows_in_milvus(tmp_path) == [1]
    assert left(store).pop("store_documents") == 1
    assert verify(store).ok


def test_without_milvus_nothing_is_deleted(tmp_path: Path) -> None:
    database = ApplicationDatabase(f"sqlite:///{tmp_path / 'rag.db'}")
    store = MilvusStore(
        "base", database, uri="http://127.0.0.1:1", folder=tmp_path / "caches", timeout=0.2
    )
    with store.writer(MINE) as writer:
        put(writer, "a.md", "年假")
    with pytest.raises(StoreError):
        store.destroy()
    assert knowledge_bases(database) == ["base"]


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_nothing_is_deleted_while_another_process_writes(store: MilvusStore, opened: Open) -> None:
    publish(store, ("a.md", "年假"))
    with opened().writer(MINE), pytest.raises(BusyError):
        store.destroy()
    assert names(store) == ["a.md"]


# --- with a server --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.milvus
@pytest.mark.usefixtures("milvus_server")
def test_all_of_it_is_so_with_a_server(tmp_path: Path) -> None:
    uri = os.environ["RAG_TEST_MILVUS_URI"]
    store, reader = (open_at(tmp_path, uri, keep_generations=KEEP) for _ in range(2))
    fill(store)
    before = found_by(OLD, store, "年假")
    assert set(before) == {"年假", "hotel", "costs", "年假 again"}
    assert found_by(OLD, reader, "年假") == pytest.approx(before, abs=1e-6)
    assert verify(store).findings == ()
    with reader.contents() as read:
        assert sum(len(vectors) for _, _, vectors in read.rows) == 4
    lost = [ids_of(store, "a.md")[0], *ids_of(store, "b.md")]
    store.milvus.delete(collection(store), lost)
    vectors = OLD.embed_documents(["one"])
    store.milvus.insert(collection(store), Rows([7_000_001], [99], [1], vectors), again=False)
    embed = Counting()
    assert len(verify(store).findings) == 4
    repair(store, embed=embed)
    assert len(embed.texts) == 3
    assert verify(store).findings == ()
    reader.refresh()
    for each in (store, reader):
        assert found_by(OLD, each, "年假") == pytest.approx(before, abs=1e-6)
    store.rollback(3)
    reader.refresh()
    assert set(found_by(NEW, reader, "年假")) == {"年假 new", "hotel"}
    store.gc(keep=0)
    with store.writer(NEW.fingerprint) as writer:
        writer.remove("file:c.md")
        writer.publish()
    store.gc(keep=0)
    assert verify(store).findings == ()
    assert len(store.milvus.names(store.records.prefix)) == 1
    recall = store.measure_recall()
    assert recall is not None
    assert recall.recall_at_10 == 1.0
    prefix = store.records.prefix
    store.destroy()
    assert store.milvus.names(prefix) == []
    assert left(store) == {}
    store.close()
    reader.close()
