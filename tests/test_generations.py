"""Earlier generations of an embedded knowledge base come back whole, and old ones go for good."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rag.errors import BusyError, InputError, NotFoundError
from rag.stores.embedded import EmbeddedStore, generations, schema
from rag.stores.indexes import vectors
from rag.types import Filters, StoreWriter
from tests.fakes import FakeEmbedder
from tests.test_store_contract import MINE, NAMES, Died, found, make, names, publish, put

OLD = FakeEmbedder()  # its fingerprint is MINE
NEW = FakeEmbedder(model="new", dimension=32)
KEEP = 2


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "base"


@pytest.fixture
def opened(place: Path) -> Iterator[Callable[[], EmbeddedStore]]:
    stores: list[EmbeddedStore] = []

    def open_one() -> EmbeddedStore:
        stores.append(EmbeddedStore(place, keep_generations=KEEP))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Callable[[], EmbeddedStore]) -> EmbeddedStore:
    return opened()


def found_by(embedder: FakeEmbedder, store: EmbeddedStore, question: str) -> dict[str, float]:
    """The cosine of each chunk that is found."""
    candidates = store.search(question, embedder.embed_query(question), limit=100)
    rows = store.fetch([c.chunk_id for c in candidates])
    return {rows[c.chunk_id][0].text: c.dense for c in candidates}


def reindex(store: EmbeddedStore, embedder: FakeEmbedder) -> int:
    with store.writer(embedder.fingerprint, replacing=True) as writer:
        for info in store.documents():
            chunks = store.chunks(info.id)
            vectors = embedder.embed_documents([c.embedded_text for c in chunks])
            writer.put(store.document(info.id), chunks, vectors)
        return writer.publish()


def dies_after(times: int, whole: Callable[..., int] = lambda: 0) -> Callable[..., int]:
    """Does what `whole` does so many times, and is then the end of the process."""
    left = [times]

    def dying(*arguments: object) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise Died
        return whole(*arguments)

    return dying


def count(place: Path, table: str) -> int:
    with sqlite3.connect(place / "knowledge.db") as db:
        (rows,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
    db.close()
    return int(rows)


# --- bringing back --------------------------------------------------------------------------------


def test_the_generation_before_comes_back_as_a_new_one(
    opened: Callable[[], EmbeddedStore],
) -> None:
    store, reader = opened(), opened()
    publish(store, ("a.md", "年假 old"), ("b.md", "hotel"))
    publish(store, ("a.md", "年假 new"), ("c.md", "costs"), remove=["b.md"])
    reader.refresh()
    assert store.rollback() == 3
    assert found(reader, "年假") == {"年假 new": "a.md", "costs": "c.md"}  # until it looks
    assert reader.refresh()
    for each in (store, reader, opened()):
        assert names(each) == ["a.md", "b.md"]
        assert found(each, "年假") == {"年假 old": "a.md", "hotel": "b.md"}
        assert each.generation == 3
        assert found(each, "hotel", filters=Filters(documents=("b.md",))) == {"hotel": "b.md"}


def test_a_reader_that_lags_behind_still_sees_its_whole_generation(
    opened: Callable[[], EmbeddedStore],
) -> None:
    store, reader = opened(), opened()
    publish(store, ("a.md", "one"), ("b.md", "hotel"))
    reader.refresh()
    publish(store, ("a.md", "two"), remove=["b.md"])
    store.rollback()
    assert found(reader, "?") == {"one": "a.md", "hotel": "b.md"}
    assert reader.stamp.endswith(":1")


def test_a_rollback_is_rolled_back_by_the_next(store: EmbeddedStore) -> None:
    publish(store, ("a.md", "one"))
    publish(store, ("a.md", "two"))
    for number, expected in ((3, "one"), (4, "two"), (5, "one")):
        assert store.rollback() == number
        assert found(store, "?") == {expected: "a.md"}
    assert [(g.number, g.restores) for g in store.generations()] == [(5, 3), (4, 2), (3, 1)]


def test_a_chosen_generation_comes_back(store: EmbeddedStore) -> None:
    for text in ("one", "two", "three"):
        publish(store, ("a.md", text), (f"{text}.md", text + " alone"))
    assert store.rollback(1) == 4
    assert found(store, "?") == {"one": "a.md", "one alone": "one.md"}
    assert store.rollback(3) == 5
    assert set(found(store, "?")) == {"three", "one alone", "two alone", "three alone"}


def test_one_that_came_back_before_comes_back_again(store: EmbeddedStore) -> None:
    publish(store, ("a.md", "one"))
    publish(store, ("a.md", "two"))
    assert [store.rollback(1), store.rollback(1)] == [3, 4]  # nothing comes or goes the second time
    assert found(store, "?") == {"one": "a.md"}
    store.rollback(2)
    assert found(store, "?") == {"two": "a.md"}
    store.rollback(4)
    assert found(store, "?") == {"one": "a.md"}
    publish(store, ("a.md", "three"))
    store.rollback(6)
    assert found(store, "?") == {"one": "a.md"}
    store.rollback(6)
    assert found(store, "?") == {"one": "a.md"}


def test_what_came_back_and_went_again_comes_back_from_either_time(place: Path) -> None:
    store = EmbeddedStore(place, keep_generations=9)
    publish(store, ("a.md", "one"))
    publish(store, ("a.md", "two"))
    store.rollback(1)
    publish(store, ("a.md", "three"))
    for generation, text in ((1, "one"), (4, "three"), (3, "one"), (2, "two"), (1, "one")):
        store.rollback(generation)
        assert found(store, "?") == {text: "a.md"}
    store.close()


def test_what_came_back_can_be_changed_and_removed(store: EmbeddedStore) -> None:
    publish(store, ("a.md", "one"), ("b.md", "hotel"))
    publish(store, ("a.md", "two"), remove=["b.md"])
    store.rollback()
    publish(store, ("a.md", "three"))
    assert found(store, "?") == {"three": "a.md", "hotel": "b.md"}
    publish(store, remove=["b.md"])
    assert found(store, "?") == {"three": "a.md"}


def test_after_another_model_the_old_vectors_answer_again(
    opened: Callable[[], EmbeddedStore],
) -> None:
    store, reader = opened(), opened()
    publish(store, ("a.md", "员工年假 ten days"), ("b.md", "hotel costs"))
    before = found_by(OLD, store, "年假")
    reindex(store, NEW)
    publish_with_new = found_by(NEW, store, "年假")
    reader.refresh()
    embedded = OLD.texts, NEW.texts
    store.rollback(1)
    reader.refresh()
    assert (OLD.texts, NEW.texts) == embedded
    for each in (store, reader, opened()):
        assert each.fingerprint == OLD.fingerprint
        assert found_by(OLD, each, "年假") == pytest.approx(before, abs=1e-6)
    store.rollback(2)
    assert store.fingerprint == NEW.fingerprint
    assert found_by(NEW, store, "年假") == pytest.approx(publish_with_new, abs=1e-6)


def test_a_text_of_a_kept_generation_is_not_embedded_again_but_never_with_other_vectors(
    store: EmbeddedStore,
) -> None:
    publish(store, ("a.md", "年假"), ("b.md", "hotel"))
    publish(store, remove=["b.md"])
    text = "Title of b.md\nhotel"
    with store.writer(MINE) as writer:
        assert set(writer.vectors([text])) == {text}
    reindex(store, NEW)
    with store.writer(NEW.fingerprint) as writer:
        assert writer.vectors([text]) == {}
        (vector,) = writer.vectors(["Title of a.md\n年假"]).values()
    assert np.allclose(vector, NEW.embed_query("Title of a.md\n年假"), atol=1e-6)


def test_what_a_writer_that_died_had_put_is_for_the_generation_after(
    store: EmbeddedStore,
) -> None:
    publish(store, ("a.md", "one"))
    publish(store, ("a.md", "two"), ("b.md", "hotel"))

    def die_halfway() -> None:
        with store.writer(MINE) as writer:
            put(writer, "c.md", "costs")
            writer.remove("file:b.md")
            raise Died

    with pytest.raises(Died):
        die_halfway()
    store.rollback()
    assert found(store, "?") == {"one": "a.md"}
    with store.writer(MINE) as writer:
        assert set(writer.known()) == {"file:a.md", "file:c.md"}
        writer.publish()
    assert found(store, "?") == {"one": "a.md", "costs": "c.md"}
    store.rollback(2)
    assert found(store, "?") == {"two": "a.md", "hotel": "b.md"}


def test_the_indexes_can_be_lost_at_any_time(
    opened: Callable[[], EmbeddedStore], place: Path
) -> None:
    store = opened()
    publish(store, *((f"{n}.md", f"zebra {n}") for n in range(20)))
    publish(store, ("1.md", "zebra new"), remove=["2.md", "3.md"])
    store.rollback()
    expected = found_by(OLD, store, "zebra")
    assert len(expected) == 20
    store.close()
    for path in place.glob("vectors.*"):
        path.unlink()
    for path in place.glob("keywords-*/*"):
        path.unlink()
    assert found_by(OLD, opened(), "zebra") == pytest.approx(expected, abs=1e-6)


def test_a_large_index_takes_back_what_it_had_masked(
    opened: Callable[[], EmbeddedStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "_MIN_REBUILD", 20)
    store, reader = opened(), opened()
    publish(store, *((f"{n}.md", f"zebra {n}") for n in range(60)))
    reader.refresh()
    for back in (1, 3):
        publish(store, ("1.md", "zebra new"), remove=["2.md", "3.md"])
        reader.refresh()
        store.rollback(back)
        for each in (store, reader):
            each.refresh()
            assert each._views.newest is not None
            assert each._views.newest.vectors.base is not None
            assert each._views.newest.vectors.gone is not None  # still the first base, with a mask
            assert set(found(each, "zebra")) == {f"zebra {n}" for n in range(60)}
            allowed = Filters(documents=("1.md", "2.md"))
            assert set(found(each, "zebra", filters=allowed)) == {"zebra 1", "zebra 2"}
    for _ in range(2):
        publish(store, remove=["2.md"])
        store.rollback()
    publish(store, remove=["2.md"])
    reader.refresh()  # it was removed three times since
    for each in (store, reader, opened()):
        assert set(found(each, "zebra")) == {f"zebra {n}" for n in range(60) if n != 2}
    assert store._db.removed_between(0, 99) == sorted(set(store._db.removed_between(0, 99)))


def test_the_stamp_is_another_one_though_the_same_is_shown(store: EmbeddedStore) -> None:
    publish(store, ("a.md", "one"))
    first = store.stamp
    publish(store, ("a.md", "two"))
    store.rollback()
    assert found(store, "?") == {"one": "a.md"}
    assert store.stamp != first


def test_there_must_be_one_to_bring_back(store: EmbeddedStore) -> None:
    with pytest.raises(NotFoundError, match="no earlier") as caught:
        store.rollback()
    assert "RAG_KEEP_GENERATIONS" in caught.value.hint
    publish(store, ("a.md", "one"))
    publish(store, ("a.md", "two"))
    with pytest.raises(NotFoundError, match="7 is not kept") as caught:
        store.rollback(7)
    assert "1" in caught.value.hint
    with pytest.raises(InputError, match="is the one"):
        store.rollback(2)
    assert store.generation == 2


def test_nobody_rolls_back_while_another_writes(store: EmbeddedStore) -> None:
    publish(store, ("a.md", "one"))
    publish(store, ("a.md", "two"))
    with store.writer(MINE):
        with pytest.raises(BusyError):
            store.rollback()
        with pytest.raises(BusyError):
            store.gc()


# --- what is kept ---------------------------------------------------------------------------------


def test_generations_tell_what_they_hold(store: EmbeddedStore) -> None:
    publish(store, ("a.md", "one", "two"), ("b.md", "hotel"))
    publish(store, ("a.md", "three"))
    reindex(store, NEW)
    told = [
        (g.number, g.documents, g.chunks, g.fingerprint.model, g.current)
        for g in store.generations()
    ]
    assert told == [(3, 2, 2, "new", True), (2, 2, 2, "fake", False), (1, 2, 3, "fake", False)]
    assert all(g.published_at.endswith("+00:00") for g in store.generations())


def test_an_empty_one_has_none(store: EmbeddedStore) -> None:
    assert store.generations() == []
    assert store.gc().documents == 0


def test_as_many_are_kept_as_asked(store: EmbeddedStore, place: Path) -> None:
    for n in range(6):
        publish(store, ("a.md", f"version {n}"))
    assert [g.number for g in store.generations()] == [6, 5, 4]
    assert count(place, "documents") == count(place, "chunks") == count(place, "vectors") == 3


def test_gc_lets_the_earlier_ones_go_for_good(store: EmbeddedStore, place: Path) -> None:
    publish(store, ("secret.md", "quagga topsecret", "more"), ("b.md", "hotel"))
    publish(store, remove=["secret.md"])
    assert (
        b"topsecret"
        in (place / "knowledge.db").read_bytes() + (place / "knowledge.db-wal").read_bytes()
    )
    freed = store.gc(keep=0)
    assert (freed.generations, freed.documents, freed.chunks) == (1, 1, 2)
    assert [g.number for g in store.generations()] == [2]
    assert found(store, "?") == {"hotel": "b.md"}
    store.close()
    assert all(b"topsecret" not in p.read_bytes() for p in place.rglob("*") if p.is_file())
    assert count(place, "removed") == 0


def test_gc_gives_space_back_to_the_disk(store: EmbeddedStore, place: Path) -> None:
    publish(
        store, *((f"{n}.md", *(f"{'long ' * 200}{n} {m}" for m in range(20))) for n in range(9))
    )
    reindex(store, NEW)
    size = sum(path.stat().st_size for path in place.glob("knowledge.db*"))
    freed = store.gc(keep=0)
    assert freed.chunks == 180
    assert freed.bytes > size / 3
    assert sum(path.stat().st_size for path in place.glob("knowledge.db*")) < size * 2 / 3
    assert len(found_by(NEW, store, "long")) >= 100


def test_a_reader_that_lags_behind_gc_catches_up(
    opened: Callable[[], EmbeddedStore],
) -> None:
    store, reader = opened(), opened()
    publish(store, ("a.md", "one"), ("b.md", "hotel"))
    reader.refresh()
    publish(store, ("a.md", "two"))
    publish(store, ("c.md", "costs"), remove=["b.md"])
    store.gc(keep=0)
    reader.refresh()
    assert found(reader, "?") == found(store, "?") == {"two": "a.md", "costs": "c.md"}
    publish(store, remove=["c.md"])
    reader.refresh()
    assert found(reader, "costs") == {"two": "a.md"}


def test_indexes_older_than_what_gc_remembers_are_made_anew(
    opened: Callable[[], EmbeddedStore], place: Path, tmp_path: Path
) -> None:
    store = opened()
    publish(store, ("a.md", "one"), ("b.md", "hotel"))
    store.close()
    kept = {
        p: p.read_bytes() for p in place.rglob("*") if p.is_file() and "knowledge" not in p.name
    }
    store = opened()
    publish(store, ("a.md", "two"), remove=["b.md"])
    publish(store, *((f"{n}.md", f"zebra {n}") for n in range(9)))
    store.gc(keep=0)
    store.close()
    for path in place.rglob("*"):
        if path.is_file() and "knowledge" not in path.name:
            path.unlink()
    for path, data in kept.items():
        path.write_bytes(data)
    assert found(opened(), "hotel") == {"two": "a.md"} | {f"zebra {n}": f"{n}.md" for n in range(9)}


def test_a_database_of_the_first_version_goes_on(place: Path, store: EmbeddedStore) -> None:
    """As such a program left it: published, with a staged document and a removed one."""
    store.close()
    for path in place.glob("*.db*"):
        path.unlink()
    with sqlite3.connect(place / "knowledge.db") as db:
        db.executescript(f"{schema._STEPS[0]} PRAGMA user_version = 1;")
        fingerprint = '{"model": "fake", "revision": "1", "dimension": 64, "normalized": true,'
        fingerprint += ' "query_prefix": "", "document_prefix": ""}'
        for key, value in {
            "identity": "abc",
            "generation": "3",
            "fingerprint": fingerprint,
            "vectors_since": "1",
            "staged_fingerprint": fingerprint,
        }.items():
            db.execute("INSERT INTO meta VALUES (?, ?)", (key, value))
        for key, (name, added) in enumerate((("a.md", 1), ("b.md", 3), ("c.md", 4)), 1):
            document, (chunk,) = make(name, f"zebra {name}")
            db.execute(
                "INSERT INTO documents VALUES (?,?,?,?,?,?,?,?,?,?,?,?,1,'2026-01-01',?,NULL)",
                (key, document.id, document.uri, name, "md", "t", chunk.text, "[]", "h", "s", 1,
                 "[]", added),
            )  # fmt: skip
            db.execute(
                "INSERT INTO chunks VALUES (?,?,0,0,?,?,'','[]',NULL,NULL,x'00')",
                (key, key, len(chunk.text), chunk.text),
            )
            vector = OLD.embed_query(chunk.text).tobytes()
            db.execute("INSERT INTO vectors VALUES (?, ?)", (key, vector))
        db.execute("INSERT INTO removed VALUES (77, 2)")
    db.close()
    again = EmbeddedStore(place, keep_generations=KEEP)
    assert set(found(again, "zebra")) == {"zebra a.md", "zebra b.md"}
    assert [(g.number, g.documents, g.chunks) for g in again.generations()] == [(3, 2, 2)]
    with again.writer(MINE) as writer:
        assert len(writer.known()) == 3
        writer.remove("file:a.md")
        writer.publish()
    assert set(found(again, "zebra")) == {"zebra b.md", "zebra c.md"}
    again.rollback()
    assert set(found(again, "zebra")) == {"zebra a.md", "zebra b.md"}
    assert again.gc(keep=0).chunks == 1
    again.close()


@pytest.mark.parametrize(
    ("published", "staged", "expected"),
    [
        ("one", "one", {"a": "one", "b": "one"}),
        ("one", "two", {"a": "one", "b": "two"}),
        (None, "two", {"a": "two", "b": "two"}),
        ("one", None, {"a": "one", "b": "one"}),
    ],
)
def test_rows_of_an_older_version_are_of_the_model_they_were_made_with(
    published: str | None, staged: str | None, expected: dict[str, str]
) -> None:
    """Without being written anew, for there may be millions of them."""
    db = sqlite3.connect(":memory:")
    db.executescript("".join(schema._STEPS[:2]))
    kept = {"fingerprint": published, "staged_fingerprint": staged, "generation": "1"}
    for key, value in kept.items():
        if value is not None and (published or key != "generation"):
            db.execute("INSERT INTO meta VALUES (?, ?)", (key, value))
    for key, added_in in ((1, 1), (2, 2)):
        db.execute(
            "INSERT INTO documents VALUES (?,?,?,?,'md','','','[]','h','s',1,'[]',1,'',?,NULL)",
            (key, "ab"[key - 1], "ab"[key - 1], "ab"[key - 1], added_in),
        )
    db.commit()
    db.executescript("".join(schema._STEPS[2:]))
    rows = db.execute(
        "SELECT d.id, f.value FROM documents d JOIN fingerprints f ON f.id = d.fingerprint"
    )
    assert dict(rows.fetchall()) == expected
    db.close()


# --- any sequence of events -----------------------------------------------------------------------

Contents = dict[str, tuple[str, ...]]


class AgainstAModel(RuleBasedStateMachine):
    """Published generations are a list of dictionaries; bringing one back appends it again."""

    folder: Path
    runs = 0

    @initialize()
    def start(self) -> None:
        type(self).runs += 1
        self.place = self.folder / str(self.runs)
        self.store = EmbeddedStore(self.place, keep_generations=KEEP)
        self.reader = EmbeddedStore(self.place, keep_generations=KEEP)
        self.context: Any = None
        self.writer: StoreWriter | None = None
        self.kept: list[tuple[int, Contents, FakeEmbedder]] = []
        self.pruned = True
        self.staged: Contents = {}
        self.staged_by = OLD
        self.removed: set[str] = set()
        self.replacing = False
        self.changed = False
        self.serial = 0

    @property
    def published(self) -> Contents:
        return self.kept[-1][1] if self.kept else {}

    def coming(self) -> Contents:
        before = {} if self.replacing else self.published
        return {n: t for n, t in before.items() if n not in self.removed} | self.staged

    def prune(self, keep: int = KEEP) -> None:
        self.kept = self.kept[-(keep + 1) :]

    @precondition(lambda self: self.writer is None)
    @rule(embedder=st.sampled_from([OLD, OLD, NEW]))
    def begin(self, embedder: FakeEmbedder) -> None:
        held = self.kept[-1][2] if self.kept else embedder
        self.replacing = held is not embedder
        self.context = self.store.writer(embedder.fingerprint, replacing=self.replacing)
        self.writer = self.context.__enter__()
        self.prune()
        if self.staged_by is not embedder:
            self.staged, self.staged_by = {}, embedder

    @precondition(lambda self: self.writer is not None)
    @rule(name=NAMES, chunks=st.integers(0, 2))
    def put(self, name: str, chunks: int) -> None:
        self.serial += 1
        texts = tuple(f"zebra {self.serial}/{n}" for n in range(chunks))
        document, made = make(name, *texts)
        vectors = self.staged_by.embed_documents([c.embedded_text for c in made])
        self.writer.put(document, made, vectors)  # type: ignore[union-attr]
        self.staged[name] = texts
        self.removed.discard(name)

    @precondition(lambda self: self.writer is not None)
    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        self.writer.remove(f"file:{name}")  # type: ignore[union-attr]
        self.staged.pop(name, None)
        self.removed.add(name)

    @precondition(lambda self: self.writer is not None)
    @rule()
    def publish(self) -> None:
        number = self.writer.publish()  # type: ignore[union-attr]
        before = self.kept[-1][0] if self.kept else 0
        if number > before:
            self.kept.append((number, self.coming(), self.staged_by))
        else:
            assert self.coming() == self.published
        self.staged, self.removed = {}, set()

    @precondition(lambda self: self.writer is not None)
    @rule(died=st.booleans())
    def end(self, died: bool) -> None:
        error = Died() if died else None
        try:
            self.context.__exit__(type(error) if error else None, error, None)
        except Died:
            assert died
        else:
            self.prune()
        self.writer, self.removed, self.replacing = None, set(), False

    @precondition(lambda self: self.writer is None)
    @rule(name=NAMES, chunks=st.integers(0, 2), embedder=st.sampled_from([OLD, OLD, NEW]))
    def ingest(self, name: str, chunks: int, embedder: FakeEmbedder) -> None:
        self.begin(embedder)
        self.put(name, chunks)
        self.publish()
        self.end(died=False)

    @precondition(lambda self: self.writer is None and len(self.kept) > 1)
    @rule(data=st.data())
    def rollback(self, data: st.DataObject) -> None:
        chosen = data.draw(st.none() | st.sampled_from([k[0] for k in self.kept[:-1]]))
        number = self.store.rollback(chosen)
        wanted = self.kept[-2][0] if chosen is None else chosen
        (back,) = (k for k in self.kept if k[0] == wanted)
        assert number == self.kept[-1][0] + 1
        self.kept.append((number, back[1], back[2]))
        self.prune()

    @precondition(lambda self: self.writer is None and len(self.kept) > 1)
    @rule()
    def rollback_that_dies(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(generations, "write_meta", dies_after(0))
            with pytest.raises(Died):
                self.store.rollback()

    @precondition(lambda self: self.writer is None)
    @rule(keep=st.integers(0, 3), after=st.integers(0, 2))
    def gc_that_dies(self, keep: int, after: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                generations, "delete_document", dies_after(after, generations.delete_document)
            )
            with suppress(Died):
                self.store.gc(keep)
        self.prune(keep)

    @precondition(lambda self: self.writer is None)
    @rule(keep=st.integers(0, 3))
    def gc(self, keep: int) -> None:
        self.store.gc(keep)
        self.prune(keep)
        versions = {(n, t) for _, contents, _ in self.kept for n, t in contents.items()}
        by = {(n, t, id(e)) for _, contents, e in self.kept for n, t in contents.items()}
        staged = len(self.staged)
        assert len(versions) + staged <= count(self.place, "documents") <= len(by) + staged

    @precondition(lambda self: self.writer is None)
    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = EmbeddedStore(self.place, keep_generations=KEEP)

    @rule(other=st.booleans())
    def look(self, other: bool) -> None:
        store = self.reader if other else self.store
        store.refresh()
        contents = self.published
        assert {i.name: i.chunks for i in store.documents()} == {
            n: len(t) for n, t in contents.items()
        }
        told = [(g.number, g.documents, g.chunks, g.fingerprint) for g in store.generations()]
        assert told == [
            (number, len(c), sum(map(len, c.values())), e.fingerprint)
            for number, c, e in reversed(self.kept)
        ]
        if self.kept:
            embedder = self.kept[-1][2]
            assert store.fingerprint == embedder.fingerprint
            cosines = found_by(embedder, store, "zebra")
            expected = {t: n for n, texts in contents.items() for t in texts}
            assert set(cosines) == set(expected)
            question = embedder.embed_query("zebra")
            for text, name in expected.items():
                whole = f"Title of {name}\n{text}"
                assert abs(float(embedder.embed_query(whole) @ question) - cosines[text]) < 1e-5

    def teardown(self) -> None:
        if getattr(self, "store", None) is not None:
            if self.writer is not None:
                self.end(died=True)
            self.store.close()
            self.reader.close()


def test_any_sequence_of_events_equals_a_simple_model(tmp_path: Path) -> None:
    class Machine(AgainstAModel):
        folder = tmp_path

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=12, stateful_step_count=30, deadline=None, derandomize=True, database=None
        ),
    )
