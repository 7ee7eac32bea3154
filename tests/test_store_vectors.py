"""Large collections of vectors: masks and filters inside the search, bases in blocks, recall."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.stores.embedded import EmbeddedStore
from rag.stores.embedded.stored import Stored
from rag.stores.indexes import codes, vectors
from rag.stores.indexes.keywords import KeywordIndex
from rag.stores.indexes.nearest import Nearest, beside
from rag.types import Chunk, Document, Element, Filters
from tests.fakes import FakeEmbedder

EMBEDDER = FakeEmbedder()
MINE = EMBEDDER.fingerprint
_DIMENSION = 32
_COUNT = 12_000


def clustered(count: int, seed: int = 7) -> np.ndarray:  # type: ignore[type-arg]
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((40, _DIMENSION))
    near = centres[generator.integers(0, 40, count)]
    matrix = near + 0.5 * generator.standard_normal((count, _DIMENSION))
    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def large() -> vectors.VectorIndex:
    """A base of short codes over ids 3, 6, 9, ..."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "EXACT_LIMIT", 1000)
        base = vectors.build_base(np.arange(1, _COUNT + 1) * 3, clustered(_COUNT), 1)
    assert not base.exact
    return vectors.VectorIndex.of(base, _DIMENSION)


def best(question: np.ndarray, allowed: np.ndarray, count: int) -> set[int]:  # type: ignore[type-arg]
    matrix = clustered(_COUNT)[allowed // 3 - 1]
    return set(allowed[np.argsort(-(matrix @ question))[:count]].tolist())


@pytest.mark.parametrize("count", [1, 9, 200, 3000, 9000])
def test_a_filter_finds_as_many_as_it_lets_through(large: vectors.VectorIndex, count: int) -> None:
    generator = np.random.default_rng(count)
    allowed = np.sort(generator.choice(_COUNT, count, replace=False) + 1) * 3
    for question in clustered(20, seed=8):
        found = large.search(question, 50, allowed)
        assert len(found) == min(50 * codes.SCORED, count)
        assert set(found) <= set(allowed.tolist())
        wanted = best(question, allowed, min(10, count))
        assert len(wanted & set(found)) >= 0.9 * len(wanted)


@pytest.mark.parametrize("few", [0, 5000], ids=["scanned", "compared"])
def test_a_filter_that_leaves_out_the_surroundings_of_a_question_finds_what_is_far(
    large: vectors.VectorIndex, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codes, "_FEW", few)
    question = clustered(1, seed=9)[0]
    order = np.argsort(-(clustered(_COUNT) @ question))
    allowed = np.sort(order[_COUNT // 2 :] + 1) * 3  # the farther half
    found = large.search(question, 50, allowed)
    assert len(found) == 50 * codes.SCORED
    assert len(best(question, allowed, 10) & set(found)) >= 9


def test_of_more_than_is_asked_for_the_nearest_by_their_exact_cosine_are_given(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "EXACT_LIMIT", 100)
    filled(store, 300)
    question = EMBEDDER.embed_query("zebra number 7")
    scores = {
        text: float(EMBEDDER.embed_query(text) @ question)
        for text in (f"zebra number {n}" for n in range(300))
    }
    found = [c for c in store.search("nothing", question, limit=10) if c.via != "keyword"]
    assert len(found) == 10
    texts = {i: chunk.text for i, (chunk, *_) in store.fetch([c.chunk_id for c in found]).items()}
    assert [c.dense for c in found] == sorted((c.dense for c in found), reverse=True)
    best_ten = sorted(scores.values(), reverse=True)[:10]
    assert sum(scores[texts[c.chunk_id]] >= best_ten[-1] - 1e-5 for c in found) >= 9


@pytest.mark.parametrize("many", [0, 64, 10**9])
def test_what_is_among_is_the_same_whether_searched_or_looked_up(
    many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "_MANY", many)
    ids, allowed = np.array([2, 3, 7, 9, 12]), np.array([1, 3, 9, 10, 12, 40])
    inside = vectors._are_among(ids, allowed)
    assert inside.tolist() == [False, True, False, True, True]


def test_a_filter_that_lets_nothing_of_the_base_through_finds_nothing(
    large: vectors.VectorIndex,
) -> None:
    question = clustered(1)[0]
    assert large.search(question, 50, np.array([1, 2, 3 * _COUNT + 1], np.int64)) == {}


@given(
    wanted=st.lists(st.integers(0, 60), unique=True), ids=st.lists(st.integers(0, 60), unique=True)
)
def test_positions_are_those_of_the_ids_that_are_there(wanted: list[int], ids: list[int]) -> None:
    there = np.array(sorted(ids), np.int64)
    places = vectors.positions_of(np.array(sorted(wanted), np.int64), there)
    assert there[places].tolist() == sorted(set(wanted) & set(ids))


def test_what_comes_or_goes_costs_a_new_base_only_when_it_has_become_much(
    large: vectors.VectorIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "MAX_DELTA", 100)
    nothing, none = np.empty((0, _DIMENSION), np.float32), np.empty(0, np.int64)
    came = np.arange(101) + 3 * _COUNT + 1
    assert not large.changed(came[1:], clustered(100), none, 2).wants_rebuild
    assert large.changed(came, clustered(101), none, 2).wants_rebuild
    gone = large.base.ids  # type: ignore[union-attr]
    assert not large.changed(none, nothing, gone[:2000], 2).wants_rebuild
    assert large.changed(none, nothing, gone[:2001], 2).wants_rebuild


# --- in blocks ------------------------------------------------------------------------------------


def test_the_nearest_are_the_same_in_blocks_of_any_size() -> None:
    matrix, questions = clustered(500), beside(clustered(20, seed=3), np.random.default_rng(1))
    order = np.argsort(-(questions @ matrix.T), axis=1)[:, :10]
    for size in (3, 100, 500):
        nearest = Nearest(questions, 10)
        for start in range(0, 500, size):
            block = matrix[start : start + size]
            nearest.see(np.arange(start, start + len(block)), block)
        assert [n.tolist() for n in nearest.ids()] == np.sort(order, axis=1).tolist()


def make(name: str, text: str) -> tuple[Document, list[Chunk]]:
    """A document of one chunk."""
    document = Document(
        id=f"id-{name}",
        uri=f"file:{name}",
        name=name,
        type="md",
        title="",
        text=text,
        elements=(Element("text", 0, len(text)),),
        content_hash="1",
    )
    chunk = Chunk(document_id=document.id, ordinal=0, start=0, end=len(text), text=text)
    return document, [chunk]


def filled(store: EmbeddedStore, count: int, *, first: int = 0) -> None:
    """One document of one chunk a number."""
    with store.writer(MINE) as writer:
        for number in range(first, first + count):
            document, chunks = make(f"{number}.md", f"zebra number {number}")
            writer.put(document, chunks, EMBEDDER.embed_documents([chunks[0].embedded_text]))
        writer.publish()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    opened = EmbeddedStore(tmp_path / "base")
    yield opened
    opened.close()


def test_stored_vectors_come_in_blocks_as_they_were_put(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag.stores.embedded.stored._BLOCK", 7)
    monkeypatch.setattr("rag.stores.embedded.stored._AT_ONCE", 3)
    filled(store, 30)
    with store.writer(MINE) as writer:
        writer.remove("file:4.md")
        writer.publish()
    stored = Stored(store._db, MINE.dimension, 2)
    ids = np.concatenate([ids for ids, _ in stored.blocks()])
    matrix = np.vstack([block for _, block in stored.blocks()])
    assert len(stored) == len(ids) == 29
    assert (np.diff(ids) > 0).all()
    assert len(Stored(store._db, MINE.dimension, 2, after=1)) == 0
    texts = [chunk.embedded_text for _, chunks in _made(30, but=4) for chunk in chunks]
    assert np.allclose(matrix, EMBEDDER.embed_documents(texts))


def _made(count: int, *, but: int) -> Iterator[Any]:
    yield from (make(f"{n}.md", f"zebra number {n}") for n in range(count) if n != but)


# --- recall ---------------------------------------------------------------------------------------


def test_recall_is_measured_kept_and_shown(store: EmbeddedStore, tmp_path: Path) -> None:
    assert store.measure_recall() is None
    assert store.last_recall() is None
    filled(store, 300)
    recall = store.measure_recall(sample=20)
    assert recall is not None
    assert (recall.recall_at_10, recall.width) == (1.0, 0.0)
    assert (recall.questions, recall.chunks, recall.generation) == (20, 300, 1)
    other = EmbeddedStore(tmp_path / "base")
    assert other.last_recall() == recall
    other.close()


def test_a_lost_base_is_made_in_blocks_and_never_all_at_once(
    store: EmbeddedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "EXACT_LIMIT", 100)
    filled(store, 300)
    store.close()
    for path in (tmp_path / "base").glob("vectors.*.faiss"):
        path.unlink()

    def never(*_: object) -> None:
        raise AssertionError("All vectors are read into memory.")

    monkeypatch.setattr("rag.stores.embedded.vector_cache.gather", never)
    again = EmbeddedStore(tmp_path / "base")
    assert len(again.search("zebra", EMBEDDER.embed_query("zebra"), limit=10)) >= 10
    again.close()


def test_a_search_that_finds_too_little_is_made_wider_and_stays_so(
    store: EmbeddedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "EXACT_LIMIT", 100)
    filled(store, 300)
    index = store._views.newest.vectors  # type: ignore[union-attr]
    index.base.index.k_factor = 1  # type: ignore[union-attr]
    monkeypatch.setattr("rag.stores.embedded.measuring.CANDIDATES", 4)  # cannot hold the ten
    recall = store.measure_recall(sample=20)
    assert recall is not None
    assert recall.recall_at_10 < 0.98
    assert recall.width == index.width == codes.MAX_WIDTH
    other = EmbeddedStore(tmp_path / "base")
    other.refresh()
    assert other._views.newest is not None
    assert other._views.newest.vectors.width == codes.MAX_WIDTH
    other.close()


# --- published at once ----------------------------------------------------------------------------


def test_a_reader_of_a_large_ingest_has_nothing_to_index_or_to_build(
    store: EmbeddedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(store, 20)
    reader = EmbeddedStore(tmp_path / "base")
    reader.refresh()
    monkeypatch.setattr("rag.stores.embedded.ahead.MAX_DELTA", 50)
    filled(store, 100, first=20)

    def never(*_: object) -> None:
        raise AssertionError("A reader brings the caches up to date.")

    monkeypatch.setattr(KeywordIndex, "written", never)
    monkeypatch.setattr("rag.stores.embedded.vector_cache.build_base_of", never)
    assert reader.refresh()
    index = reader._views.newest.vectors  # type: ignore[union-attr]
    assert (len(index), len(index.delta_ids), index.base.generation) == (120, 0, 2)  # type: ignore[union-attr]
    found = reader.search("119", EMBEDDER.embed_query("zebra number 119"), limit=5)
    assert any(c.via == "both" for c in found)
    reader.close()


@pytest.mark.parametrize("step", ["show_base", "show"])
def test_who_dies_between_publishing_and_showing_the_indexes_leaves_what_is_made_again(
    store: EmbeddedStore, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(store, 20)

    class Died(Exception):
        pass

    def die(*_: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr("rag.stores.embedded.ahead.MAX_DELTA", 50)
        target = "rag.stores.embedded.ahead.show_base" if step == "show_base" else f"{COMING}.show"
        patch.setattr(target, die)
        with pytest.raises(Died):
            filled(store, 100, first=20)
    again = EmbeddedStore(tmp_path / "base")
    assert again.generation == 2
    found = again.search("119", EMBEDDER.embed_query("zebra number 119"), limit=200)
    assert len(found) == 120
    assert any(c.via == "both" and c.share == 1 for c in found)
    again.close()


COMING = "rag.stores.indexes.keywords.Coming"


def test_an_ingest_that_changes_nothing_leaves_the_indexes_as_they_were(
    store: EmbeddedStore, tmp_path: Path
) -> None:
    filled(store, 5)
    with store.writer(MINE) as writer:
        assert writer.publish() == 1
    filled(store, 1, first=5)
    found = store.search("zebra", EMBEDDER.embed_query("zebra"), limit=50, filters=Filters())
    assert len(found) == 6


def test_a_base_that_is_outgrown_is_made_anew_while_questions_go_on_with_the_old(
    store: EmbeddedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "EXACT_LIMIT", 50)
    monkeypatch.setattr(vectors, "_MIN_REBUILD", 20)
    filled(store, 100)
    going, asked = threading.Event(), threading.Event()
    build = vectors.build_base_of

    def slowly(*arguments: Any) -> vectors.Base:
        going.set()
        assert asked.wait(20)
        return build(*arguments)

    monkeypatch.setattr("rag.stores.embedded.vector_cache.build_base_of", slowly)
    filled(store, 30, first=100)
    assert going.wait(20)
    index = store._views.newest.vectors  # type: ignore[union-attr]
    assert (index.base.generation, len(index.delta_ids)) == (1, 30)  # type: ignore[union-attr]
    assert len(all_of(store)) == 130
    asked.set()
    store.close()
    index = store._views.newest.vectors  # type: ignore[union-attr]
    assert (index.base.generation, len(index.delta_ids)) == (2, 0)  # type: ignore[union-attr]
    assert [g for _, g in vectors.base_files(tmp_path / "base")] == [2]


def all_of(store: EmbeddedStore) -> Iterable[object]:
    return store.search("zebra", EMBEDDER.embed_query("zebra"), limit=500)
