"""What the embedded store promises beyond the contract: the database is the truth, the indexes are
caches, and readers never wait."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rag.calibrate import Calibration
from rag.errors import DamagedStoreError, StoreError
from rag.retrieve import Retriever
from rag.stores.embedded import EmbeddedStore
from rag.stores.indexes import keywords, sealed, vectors
from rag.types import Candidate, Filters, Fingerprint
from tests.test_store_contract import EMBEDDER, MINE, found, make, names, publish, put

QUESTIONS = ("zebra 年假", "hotel costs", "病假 laptop")
WORDS = ["年假", "hotel", "costs", "zebra", "病假", "laptop"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "base"


@pytest.fixture
def store(place: Path) -> Iterator[EmbeddedStore]:
    store = EmbeddedStore(place)
    yield store
    store.close()


def results(store: EmbeddedStore) -> list[list[Candidate]]:
    """All that a search tells but BM25, which also counts what was removed since the last merge."""
    return [
        sorted(
            (
                Candidate(c.chunk_id, round(c.dense, 4), 0, 0, round(c.share, 4), c.via)
                for c in store.search(q, EMBEDDER.embed_query(q), limit=8)
            ),
            key=lambda c: c.chunk_id,
        )
        for q in QUESTIONS
    ]


@pytest.fixture(scope="module")
def three_generations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to copy, with replaced and removed documents."""
    place = tmp_path_factory.mktemp("grown") / "base"
    store = EmbeddedStore(place)
    for generation in range(3):
        publish(
            store,
            *(
                (f"{n}.md", f"{WORDS[n % 6]} {WORDS[(n + generation) % 6]} v{generation}")
                for n in range(generation * 4, generation * 4 + 10)
            ),
            remove=[f"{generation}.md"],
        )
    store.close()
    return place


@pytest.fixture
def grown(three_generations: Path, place: Path) -> Iterator[EmbeddedStore]:
    shutil.copytree(three_generations, place)
    store = EmbeddedStore(place)
    yield store
    store.close()


def caches(place: Path) -> list[Path]:
    return [p for p in place.rglob("*") if p.is_file() and not p.name.startswith("knowledge.db")]


def exchange(path: Path, data: bytes) -> None:
    """As another file of the name: to shorten one that is mapped into memory kills the process."""
    path.unlink()
    path.write_bytes(data)


def truncated(path: Path) -> None:
    exchange(path, path.read_bytes()[: path.stat().st_size // 2])


def garbled(path: Path) -> None:
    exchange(path, np.random.default_rng(1).bytes(path.stat().st_size or 64))


def test_frequent_terms_are_looked_up_another_way_with_the_same_result(
    grown: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores() -> list[dict[int, tuple[float, float, float]]]:
        return [
            {
                c.chunk_id: pytest.approx((c.keyword, c.coverage, c.share), abs=1e-4)
                for c in grown.search(q, EMBEDDER.embed_query(q), limit=8)
            }
            for q in QUESTIONS
        ]

    rare = scores()
    assert any(rare)
    for frequent in (0, 4):
        monkeypatch.setattr(keywords, "_FREQUENT", frequent)
        for one, two in zip(rare, scores(), strict=True):
            assert one.keys() == two.keys()
            assert all(one[i] == two[i].expected for i in one)  # type: ignore[attr-defined]


# --- the indexes are caches -----------------------------------------------------------------------


@pytest.mark.parametrize("harm", [Path.unlink, truncated, garbled], ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", ["vectors", "keywords", "all"])
def test_damaged_or_lost_indexes_are_made_again_with_equal_results(
    grown: EmbeddedStore, place: Path, kind: str, harm: Callable[[Path], None]
) -> None:
    expected = results(grown)
    grown.close()
    for file in caches(place):
        if kind == "all" or file.relative_to(place).parts[0].startswith(kind):
            harm(file)
    again = EmbeddedStore(place)
    assert results(again) == expected
    again.close()
    assert any(f.suffix == ".faiss" for f in caches(place))


@pytest.mark.parametrize("suffix", [".idx", ".store", ".fast", ".json"])
@pytest.mark.parametrize("harm", [Path.unlink, truncated, garbled], ids=lambda f: f.__name__)
def test_one_damaged_file_of_the_keyword_index_is_noticed(
    grown: EmbeddedStore, place: Path, suffix: str, harm: Callable[[Path], None]
) -> None:
    expected = results(grown)
    grown.close()
    harm(next(f for f in caches(place) if f.suffix == suffix and f.name != ".managed.json"))
    again = EmbeddedStore(place)
    assert results(again) == expected
    again.close()


def test_a_panic_inside_the_keyword_index_is_only_a_damaged_cache(
    grown: EmbeddedStore, place: Path
) -> None:
    expected = results(grown)
    grown.close()
    for file in caches(place):
        if file.suffix == ".fast":
            data = bytearray(file.read_bytes())
            data[len(data) // 3] ^= 0xFF
            exchange(file, bytes(data))
    again = EmbeddedStore(place)
    assert results(again) == expected
    again.close()


def test_a_keyword_index_goes_on_after_a_process_died_over_its_deletions(
    store: EmbeddedStore, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """tantivy numbers the file of deletions by its operations: the next process takes the same."""
    publish(store, *((f"{n}.md", f"zebra {n}") for n in range(8)))
    files = place / f"keywords-{keywords.TERMS_VERSION}"
    segments = {p.stem for p in files.glob("*.store")}
    store.close()
    for segment in segments:
        for number in range(1, 100):
            (files / f"{segment}.{number}.del").touch()
    again = EmbeddedStore(place)
    publish(again, ("x.md", "zebra x"), remove=["3.md"])
    assert {p.stem for p in files.glob("*.store")} >= segments  # not made anew
    assert "3.md" not in found(again, "zebra").values()
    assert caplog.messages == []
    again.close()


def test_what_is_written_aside_is_seen_when_it_is_shown_and_what_one_that_died_left_goes(
    tmp_path: Path,
) -> None:
    index, reader = (keywords.KeywordIndex(tmp_path, "mine") for _ in range(2))
    index.catch_up((), [(1, 1, "", "zebra")], 1)
    died = index.written((), [(2, 2, "", "zebra")], 2)
    assert reader.view().generation == 1
    assert died is not None  # never shown
    coming = index.written([1], [(3, 3, "", "zebra")], 2)
    before = reader.view()
    coming.show()
    after = reader.view()
    assert before.question("zebra").search(9, None) == [1]
    assert after.question("zebra").search(9, None) == [3]
    folder = keywords.index_folder(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]
    segments = sealed.tantivy_segments(folder)
    assert {p.name.partition(".")[0] for p in folder.glob("[!.m]*.*")} == set(segments)


def test_questions_go_on_while_the_vectors_file_is_shortened_and_the_next_to_open_makes_it_again(
    store: EmbeddedStore, place: Path
) -> None:
    publish(store, *((f"{n}.md", f"zebra {n}") for n in range(8)))
    expected = results(store)
    (file,) = place.glob("vectors.*.faiss")
    os.truncate(file, 100)
    assert results(store) == expected
    store.close()
    again = EmbeddedStore(place)
    assert results(again) == expected
    assert [generation for _, generation in vectors.base_files(place)] == [again.generation]
    assert file.stat().st_size > 100
    again.close()


def test_indexes_of_an_older_generation_catch_up(
    store: EmbeddedStore, place: Path, tmp_path: Path
) -> None:
    publish(store, *((f"{n}.md", f"{WORDS[n % 6]} old {n}") for n in range(8)))
    old = tmp_path / "old"
    shutil.copytree(place, old)
    publish(store, ("1.md", "zebra new"), ("9.md", "hotel new"), remove=["2.md"])
    expected = results(store)
    store.close()
    for file in caches(place):
        file.unlink()
    for file in caches(old):
        shutil.copy(file, place / file.relative_to(old))
    again = EmbeddedStore(place)
    assert results(again) == expected
    assert found(again, "zebra")["zebra new"] == "1.md"
    again.close()


def test_indexes_of_a_later_generation_than_the_database_are_not_believed(
    store: EmbeddedStore, place: Path
) -> None:
    for n in range(4):
        publish(store, ("a.md", f"the lost version {n} 年假"))
    store.close()
    for file in place.glob("knowledge.db*"):
        file.unlink()
    again = EmbeddedStore(place)
    publish(again, ("b.md", "年假 anew"))
    assert found(again, "年假") == {"年假 anew": "b.md"}
    again.close()
    third = EmbeddedStore(place)
    assert found(third, "年假") == {"年假 anew": "b.md"}
    third.close()


def test_a_reader_follows_many_generations_behind(place: Path) -> None:
    store, reader = EmbeddedStore(place), EmbeddedStore(place)
    publish(store, ("a.md", "年假 0"), ("b.md", "hotel"))
    reader.refresh()
    for n in range(1, 5):
        publish(store, ("a.md", f"年假 {n}"))
    reader.refresh()
    assert results(reader) == results(store)
    assert set(found(reader, "年假")) == {"年假 4", "hotel"}
    store.close()
    reader.close()


# --- deletions are real ---------------------------------------------------------------------------


def test_what_is_removed_is_in_no_table_and_in_neither_index(
    store: EmbeddedStore, place: Path
) -> None:
    publish(store, ("secret.md", "quagga topsecret"), ("b.md", "hotel"))
    (secret,) = (
        c.chunk_id
        for c in store.search("quagga", EMBEDDER.embed_query("quagga"), limit=9)
        if c.share
    )
    publish(store, remove=["secret.md"])
    with sqlite3.connect(place / "knowledge.db") as db:
        assert db.execute("SELECT count(*) FROM documents").fetchone() == (1,)
        assert db.execute("SELECT count(*) FROM chunks").fetchone() == (1,)
        assert db.execute("SELECT count(*) FROM vectors").fetchone() == (1,)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    assert b"topsecret" not in (place / "knowledge.db").read_bytes()
    view = store._views.keywords.view()
    assert view.question("quagga topsecret").search(9, None) == []
    vector = EMBEDDER.embed_query("quagga topsecret")
    assert store._views.newest is not None
    assert secret not in store._views.newest.vectors.search(vector, 9, None)
    (path, generation) = vectors.base_files(place)[0]
    base = vectors.load_base(path, generation, 64, store._db.identity)
    assert base is not None
    assert secret not in base.ids


def test_a_large_base_masks_what_was_removed_and_the_next_one_has_it_not(
    store: EmbeddedStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "_MIN_REBUILD", 5)
    publish(store, *((f"{n}.md", f"zebra {n}") for n in range(60)))
    publish(store, ("new.md", "zebra new"), remove=["3.md"])
    assert store._views.newest is not None
    assert store._views.newest.vectors.gone is not None  # still the first base, with a mask
    assert len(store._views.newest.vectors) == 60
    expected = {f"zebra {n}" for n in range(60) if n != 3} | {"zebra new"}
    assert set(found(store, "zebra")) == expected
    assert set(found(store, "zebra", filters=Filters(documents=("3.md", "new.md")))) == {
        "zebra new"
    }
    publish(store, remove=[f"{n}.md" for n in range(10, 30)])
    assert store._views.newest.vectors.gone is None
    assert len(store._views.newest.vectors.base.ids) == 40  # type: ignore[union-attr]
    assert len(list(place.glob("vectors.*.faiss"))) == 1


# --- readers never wait, and never see half -------------------------------------------------------


def test_reading_never_waits_for_a_writer(grown: EmbeddedStore) -> None:
    writing, read = threading.Barrier(2), threading.Event()
    waited: list[bool] = []

    def write() -> None:
        with grown.writer(MINE) as writer:
            put(writer, "x.md", "staged")
            connection = writer._staging._db  # type: ignore[attr-defined]
            connection.execute("BEGIN IMMEDIATE")  # holds SQLite's write lock
            writing.wait()
            waited.append(read.wait(timeout=20))
            connection.rollback()

    thread = threading.Thread(target=write)
    thread.start()
    writing.wait()
    before = names(grown)
    assert before
    assert found(grown, "zebra")
    assert grown.document("id-11.md").name == "11.md"
    assert not grown.refresh()
    read.set()
    thread.join()
    assert waited == [True]
    assert "x.md" not in before


class Interrupted:
    """Publishes a replacement at a chosen step of a search by another store object."""

    def __init__(self, writer: EmbeddedStore, name: str, text: str) -> None:
        self._writer = writer
        self._change = (name, text)
        self.done = False

    def __call__(self) -> None:
        if not self.done:
            self.done = True
            publish(self._writer, self._change)


@pytest.mark.parametrize("filters", [Filters(), Filters(documents=("a.md",))], ids=["all", "one"])
@pytest.mark.parametrize(
    "step", ["_db.allowed", "_db.vectors_of", "_db.fetch", "_db.removed_between"]
)
def test_a_search_during_a_publish_sees_the_old_or_the_new_and_never_neither(
    place: Path, step: str, filters: Filters, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = EmbeddedStore(place), EmbeddedStore(place)
    publish(writer, ("a.md", "quagga old"), *((f"{n}.md", "hotel") for n in range(9)))
    publish(writer, ("9.md", "hotel"))
    if step != "_db.removed_between":
        reader.refresh()
    interrupt = Interrupted(writer, "a.md", "quagga new")
    method = step.removeprefix("_db.")
    original = getattr(reader._db, method)

    def interrupted(*arguments: object) -> object:
        interrupt()
        return original(*arguments)

    monkeypatch.setattr(reader._db, method, interrupted)
    retriever = Retriever(
        reader, EMBEDDER, Calibration.of(EMBEDDER, place), candidates=2, threshold=0
    )
    # The dense leg is asked for something else, so that only the keyword leg knows the document.
    hotel = EMBEDDER.embed_query("hotel")
    monkeypatch.setattr(EMBEDDER, "embed_query", lambda _: hotel)
    hits = retriever.retrieve("quagga", top_k=4, filters=filters)
    texts = {hit.chunk.text for hit in hits if hit.document == "a.md"}
    if method == "allowed" and not filters:
        assert texts == {"quagga old"}
        assert not interrupt.done
    else:
        assert interrupt.done
        assert len(texts & {"quagga old", "quagga new"}) == 1
    writer.close()
    reader.close()


def test_a_refresh_during_a_publish_ends_with_no_document_missing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = EmbeddedStore(place), EmbeddedStore(place)
    publish(writer, ("a.md", "old"), ("b.md", "hotel"))
    interrupt = Interrupted(writer, "a.md", "new")
    original = reader._db.vectors_between

    def interrupted(after: int, upto: int) -> Iterator[tuple[int, bytes]]:
        interrupt()
        return original(after, upto)

    monkeypatch.setattr(reader._db, "vectors_between", interrupted)
    assert reader.refresh()
    assert interrupt.done
    assert set(found(reader, "?")) == {"new", "hotel"}  # no words: the dense leg alone
    writer.close()
    reader.close()


def test_many_threads_open_a_new_store_at_once(place: Path) -> None:
    barrier, opened, wrong = threading.Barrier(6), [], []

    def go() -> None:
        barrier.wait()
        try:
            opened.append(EmbeddedStore(place))
        except StoreError as error:
            wrong.append(error)

    threads = [threading.Thread(target=go) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in opened:
        store.close()
    assert wrong == []
    assert len(opened) == 6


# --- the approximate base -------------------------------------------------------------------------


def clustered(count: int, dimension: int = 32) -> np.ndarray:  # type: ignore[type-arg]
    generator = np.random.default_rng(7)
    centres = generator.standard_normal((40, dimension))
    near = centres[generator.integers(0, 40, count)]
    matrix = near + 0.5 * generator.standard_normal((count, dimension))
    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def approximate() -> vectors.VectorIndex:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "EXACT_LIMIT", 1000)
        base = vectors.build_base(np.arange(1, 4001) * 3, clustered(4000), 1)
    assert not base.exact
    return vectors.VectorIndex.of(base, 32)


def recall(
    index: vectors.VectorIndex,
    allowed: np.ndarray | None,  # type: ignore[type-arg]
    keep: np.ndarray,  # type: ignore[type-arg]
) -> float:
    matrix, ids = clustered(4000)[keep], (np.arange(1, 4001) * 3)[keep]
    generator = np.random.default_rng(3)
    total = 0
    for _ in range(100):
        question = matrix[generator.integers(len(matrix))] + 0.1 * generator.standard_normal(32)
        question = (question / np.linalg.norm(question)).astype(np.float32)
        best = set(ids[np.argsort(-(matrix @ question))[:10]].tolist())
        got = index.search(question, 50, allowed)
        assert set(got) <= set(ids.tolist())
        total += len(best & set(got))
    return total / 1000


def test_an_approximate_base_finds_nearly_all_of_the_nearest(
    approximate: vectors.VectorIndex,
) -> None:
    assert recall(approximate, None, np.ones(4000, bool)) >= 0.98


@pytest.mark.parametrize("share", [0.5, 0.05, 0.005])
def test_an_approximate_base_honours_filters(
    approximate: vectors.VectorIndex, share: float
) -> None:
    keep = np.random.default_rng(5).random(4000) < share
    allowed = (np.arange(1, 4001) * 3)[keep]
    assert recall(approximate, allowed, keep) >= 0.98


def test_an_approximate_base_honours_removals(approximate: vectors.VectorIndex) -> None:
    keep = np.random.default_rng(6).random(4000) < 0.7
    ids = np.arange(1, 4001) * 3
    nothing = np.empty(0, np.int64)
    index = approximate.changed(nothing, np.empty((0, 32), np.float32), ids[~keep], 2)
    assert len(index) == keep.sum()
    assert recall(index, None, keep) >= 0.98


def test_an_approximate_base_survives_its_file(
    approximate: vectors.VectorIndex, tmp_path: Path
) -> None:
    assert approximate.base is not None
    vectors.save_base(approximate.base, tmp_path, "it")
    ((path, generation),) = vectors.base_files(tmp_path)
    base = vectors.load_base(path, generation, 32, "it")
    assert base is not None
    assert not base.exact
    question = clustered(1)[0]
    loaded = vectors.VectorIndex.of(base, 32).search(question, 20, None)
    assert loaded == approximate.search(question, 20, None)


def test_a_base_of_other_vectors_is_not_loaded(
    approximate: vectors.VectorIndex, tmp_path: Path
) -> None:
    assert approximate.base is not None
    vectors.save_base(approximate.base, tmp_path, "it")
    ((path, generation),) = vectors.base_files(tmp_path)
    assert vectors.load_base(path, generation, 64, "it") is None
    assert vectors.load_base(path, generation, 32, "another database") is None


def test_scores_are_exact_even_over_an_approximate_base(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "EXACT_LIMIT", 100)
    document, chunks = make("big.md", *(f"zebra number {n}" for n in range(300)))
    matrix = EMBEDDER.embed_documents([c.embedded_text for c in chunks])
    with store.writer(MINE) as writer:
        writer.put(document, chunks, matrix)
        writer.publish()
    store.refresh()
    assert store._views.newest is not None
    assert not store._views.newest.vectors.exact
    question = EMBEDDER.embed_query("zebra number 7")
    candidates = store.search("zebra number 7", question, limit=20)
    rows = store.fetch([c.chunk_id for c in candidates])
    for candidate in candidates:
        ordinal = rows[candidate.chunk_id][0].ordinal
        assert candidate.dense == pytest.approx(float(matrix[ordinal] @ question), abs=1e-5)


# --- a damaged truth ------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["header", "middle"])
def test_a_damaged_database_is_said_to_be_damaged(
    grown: EmbeddedStore, place: Path, part: str
) -> None:
    grown.close()
    path = place / "knowledge.db"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    for beside in place.glob("knowledge.db-*"):
        beside.unlink()
    data = bytearray(path.read_bytes())
    damage = slice(0, 100) if part == "header" else slice(4096, len(data))
    data[damage] = b"\x5a" * len(data[damage])
    path.write_bytes(data)
    with pytest.raises(DamagedStoreError, match=r"knowledge\.db") as caught:
        results(EmbeddedStore(place))
    assert "backup" in caught.value.hint


def test_a_database_of_a_newer_program_is_left_alone(store: EmbeddedStore, place: Path) -> None:
    store.close()
    with sqlite3.connect(place / "knowledge.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(DamagedStoreError, match="newer version") as caught:
        EmbeddedStore(place)
    assert "upgrade" in caught.value.hint.lower()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file") as caught:
        EmbeddedStore(tmp_path / "file" / "base")
    assert "RAG_INDEXES" in caught.value.hint


def test_a_failing_disk_is_a_store_error_for_the_writer_too(store: EmbeddedStore) -> None:
    with pytest.raises(StoreError, match="cannot be used"), store.writer(MINE):
        raise sqlite3.OperationalError("database or disk is full")


def test_a_fingerprint_is_read_back_whole(place: Path) -> None:
    mine = Fingerprint(
        model="m", revision="r", dimension=64, query_prefix="query: ", document_prefix="passage: "
    )
    store = EmbeddedStore(place)
    document, chunks = make("a.md", "年假")
    with store.writer(mine) as writer:
        writer.put(document, chunks, EMBEDDER.embed_documents(["年假"]))
        writer.publish()
    assert EmbeddedStore(place).fingerprint == store.fingerprint == mine
    store.close()
