"""What every implementation of `ChunkStore` promises.

An implementation joins by adding a function to `IMPLEMENTATIONS` that opens the store at a place;
opening the same place twice stands for two processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
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

from rag.application import ApplicationDatabase
from rag.errors import BusyError, FingerprintError, NotFoundError
from rag.stores.embedded import EmbeddedStore
from rag.stores.milvus import MilvusStore
from rag.stores.milvus.fields import Keywords
from rag.types import (
    Chunk,
    ChunkStore,
    Document,
    Element,
    Filters,
    Fingerprint,
    StoreWriter,
)
from tests.fakes import FakeEmbedder
from tests.milvus_server import MilvusServer

Open = Callable[[Path], ChunkStore]


def _open_milvus(place: Path, uri: str, keywords: Keywords = "local") -> ChunkStore:
    place.mkdir(exist_ok=True)
    database = ApplicationDatabase(f"sqlite:///{place / 'rag.db'}")
    return MilvusStore(
        "base", database, uri=uri, folder=place / "base", timeout=30, keywords=keywords
    )


def _open_milvus_lite(place: Path) -> ChunkStore:
    return _open_milvus(place, str(place / "milvus.db"))


def _open_milvus_lite_ranking(place: Path) -> ChunkStore:
    """Milvus ranks by keywords itself."""
    return _open_milvus(place, str(place / "milvus.db"), "server")


def _open_milvus_server(place: Path) -> ChunkStore:
    return _open_milvus(place, os.environ["RAG_TEST_MILVUS_URI"])


IMPLEMENTATIONS: dict[str, Open] = {
    "embedded": lambda place: EmbeddedStore(place / "base"),
    "milvus_lite": _open_milvus_lite,
    "milvus_lite_ranking": _open_milvus_lite_ranking,
    "milvus": _open_milvus_server,
}
CASES = [
    "embedded",
    pytest.param("milvus_lite", marks=[pytest.mark.slow, pytest.mark.milvus_lite]),
    pytest.param("milvus_lite_ranking", marks=[pytest.mark.slow, pytest.mark.milvus_lite]),
    pytest.param("milvus", marks=[pytest.mark.slow, pytest.mark.milvus]),
]
EMBEDDER = FakeEmbedder()
MINE = EMBEDDER.fingerprint
OTHER = Fingerprint(model="other", revision="1", dimension=64)


class Opener:
    """Opens stores at one place, and closes them all at the end."""

    def __init__(self, implementation: Open, place: Path) -> None:
        self._implementation = implementation
        self._place = place
        self._opened: list[ChunkStore] = []

    def __call__(self) -> ChunkStore:
        self._opened.append(self._implementation(self._place))
        return self._opened[-1]

    def at(self, place: Path) -> ChunkStore:
        """Another knowledge base."""
        place.mkdir()
        self._opened.append(self._implementation(place))
        return self._opened[-1]

    def close(self) -> None:
        for store in self._opened:
            store.close()


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if "RAG_TEST_MILVUS_URI" in os.environ:  # scripts/test started one for all processes
        yield
        return
    server = MilvusServer(tmp_path_factory.mktemp("milvus"))
    try:
        server.start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAG_TEST_MILVUS_URI", server.uri)  # child processes open stores too
            yield
    finally:
        server.kill()


@pytest.fixture(scope="module")
def implementation(request: pytest.FixtureRequest) -> str:
    """The name of one, whose server is running."""
    if request.param == "milvus":
        request.getfixturevalue("milvus_server")
    return str(request.param)


each_implementation = pytest.mark.parametrize("implementation", CASES, indirect=True)


@pytest.fixture(scope="module", params=CASES)
def chosen(request: pytest.FixtureRequest) -> Open:
    if request.param == "milvus":
        request.getfixturevalue("milvus_server")
    return IMPLEMENTATIONS[request.param]


@pytest.fixture
def opened(chosen: Open, tmp_path: Path) -> Iterator[Opener]:
    opener = Opener(chosen, tmp_path)
    yield opener
    opener.close()


@pytest.fixture
def store(opened: Opener) -> ChunkStore:
    return opened()


class Died(Exception):
    """The writing process is no more."""


def make(
    name: str, *texts: str, tags: tuple[str, ...] = (), version: str = "1"
) -> tuple[Document, list[Chunk]]:
    """A document of one chunk a text."""
    whole = "\n".join(texts)
    document = Document(
        id=f"id-{name}",
        uri=f"file:{name}",
        name=name,
        type=name.rpartition(".")[2],
        title=f"Title of {name}",
        text=whole,
        elements=(Element("text", 0, len(whole), ("H",), 1, "S", 2),),
        content_hash=version,
        settings_hash="s",
        size=len(whole),
        tags=tags,
    )
    chunks, start = [], 0
    for ordinal, text in enumerate(texts):
        chunks.append(
            Chunk(
                document_id=document.id,
                ordinal=ordinal,
                start=start,
                end=start + len(text),
                text=text,
                context=f"Title of {name}",
                heading=("H",),
                page=1,
                sheet="S",
                rows=((start, start + len(text), ordinal + 2),),
            )
        )
        start += len(text) + 1
    return document, chunks


def put(writer: StoreWriter, name: str, *texts: str, **options: Any) -> None:
    document, chunks = make(name, *texts, **options)
    writer.put(document, chunks, EMBEDDER.embed_documents([c.embedded_text for c in chunks]))


def publish(store: ChunkStore, *puts: Sequence[str], remove: Sequence[str] = ()) -> int:
    with store.writer(MINE) as writer:
        for name, *texts in puts:
            put(writer, name, *texts)
        for name in remove:
            writer.remove(f"file:{name}")
        generation = writer.publish()
    store.refresh()
    return generation


def found(
    store: ChunkStore, question: str, *, limit: int = 200, filters: Filters = Filters()
) -> dict[str, str]:
    """The text of each chunk found, with its document's name."""
    vector = EMBEDDER.embed_query(question)
    candidates = store.search(question, vector, limit=limit, filters=filters)
    rows = store.fetch([c.chunk_id for c in candidates])
    assert len({c.chunk_id for c in candidates}) == len(candidates)
    return {chunk.text: name for chunk, name, _ in rows.values()}


def names(store: ChunkStore, filters: Filters = Filters()) -> list[str]:
    return [info.name for info in store.documents(filters)]


# --- an empty one ---------------------------------------------------------------------------------


def test_a_new_store_is_empty_and_has_no_fingerprint(store: ChunkStore) -> None:
    assert store.fingerprint is None
    assert store.generation == 0
    assert names(store) == []
    assert found(store, "年假") == {}
    assert store.fetch([1, 2]) == {}
    assert not store.refresh()


def test_a_writer_that_puts_nothing_decides_nothing(store: ChunkStore) -> None:
    with store.writer(OTHER) as writer:
        assert writer.publish() == 0
    assert store.fingerprint is None
    publish(store, ("a.md", "年假"))
    assert store.fingerprint == MINE


# --- publishing -----------------------------------------------------------------------------------


def test_nothing_is_seen_before_publish_and_all_at_once_after(opened: Opener) -> None:
    store, reader = opened(), opened()
    with store.writer(MINE) as writer:
        put(writer, "a.md", "员工年假")
        put(writer, "b.md", "hotel costs")
        for each in (store, reader):
            assert not each.refresh()
            assert (names(each), found(each, "年假"), each.generation) == ([], {}, 0)
        assert writer.publish() == 1
    assert not store.refresh()  # the one that wrote has moved on already
    assert reader.refresh()
    for each in (store, reader):
        assert names(each) == ["a.md", "b.md"]
        assert found(each, "年假 hotel") == {"员工年假": "a.md", "hotel costs": "b.md"}
        assert each.generation == 1
        assert not each.refresh()


def test_publishing_no_change_makes_no_generation(store: ChunkStore) -> None:
    publish(store, ("a.md", "年假"))
    assert publish(store) == 1
    assert not store.refresh()


def test_a_replaced_document_is_old_until_publish_and_new_after(opened: Opener) -> None:
    store, reader = opened(), opened()
    publish(store, ("a.md", "旧的年假规定"), ("b.md", "hotel"))
    reader.refresh()
    with store.writer(MINE) as writer:
        put(writer, "a.md", "新的年假规定")
        assert set(found(reader, "年假规定")) == {"旧的年假规定", "hotel"}
        writer.publish()
    assert reader.refresh()
    assert set(found(reader, "年假规定")) == {"新的年假规定", "hotel"}
    assert reader.document("id-a.md").text == "新的年假规定"


def test_a_removed_document_is_gone_for_good(opened: Opener) -> None:
    store, reader = opened(), opened()
    publish(store, ("a.md", "年假"), ("b.md", "hotel"))
    reader.refresh()
    publish(store, remove=["a.md"])
    reader.refresh()
    for each in (store, reader, opened()):
        assert names(each) == ["b.md"]
        assert found(each, "年假") == {"hotel": "b.md"}
        with pytest.raises(NotFoundError):
            each.document("id-a.md")


def test_the_last_document_may_go(store: ChunkStore) -> None:
    publish(store, ("a.md", "年假"))
    publish(store, remove=["a.md"])
    assert (names(store), found(store, "年假")) == ([], {})
    publish(store, ("a.md", "年假"))
    assert found(store, "年假") == {"年假": "a.md"}


def test_removing_what_is_not_there_changes_nothing(store: ChunkStore) -> None:
    publish(store, ("a.md", "年假"))
    assert publish(store, remove=["b.md"]) == 1


def test_a_document_put_twice_counts_once(store: ChunkStore) -> None:
    publish(store, ("a.md", "第一版"), ("a.md", "第二版"))
    assert found(store, "版") == {"第二版": "a.md"}
    assert [info.chunks for info in store.documents()] == [1]


def test_a_writer_may_publish_more_than_once(store: ChunkStore) -> None:
    with store.writer(MINE) as writer:
        put(writer, "a.md", "年假")
        assert writer.publish() == 1
        writer.remove("file:a.md")
        put(writer, "b.md", "hotel")
        assert writer.publish() == 2
    store.refresh()
    assert names(store) == ["b.md"]


def test_a_document_without_chunks_is_still_listed(store: ChunkStore) -> None:
    publish(store, ("a.md",), ("b.md", "年假"))
    assert names(store) == ["a.md", "b.md"]
    assert store.chunks("id-a.md") == []


# --- what was stored comes back -------------------------------------------------------------------


def test_a_document_and_its_chunks_come_back_as_they_were_put(store: ChunkStore) -> None:
    document, chunks = make("folder/ü 年假.md", "第一段 \x00 ﻿", "zweiter — 😀", tags=("hr", "标签"))
    with store.writer(MINE) as writer:
        writer.put(document, chunks, EMBEDDER.embed_documents([c.text for c in chunks]))
        writer.publish()
    store.refresh()
    assert store.document(document.id) == document
    assert store.chunks(document.id) == chunks
    (info,) = store.documents()
    assert (info.uri, info.tags, info.chunks) == (document.uri, ("hr", "标签"), 2)
    assert info.updated_at.endswith("+00:00")
    candidates = store.search("zweiter", EMBEDDER.embed_query("zweiter"), limit=5)
    rows = store.fetch([c.chunk_id for c in candidates])
    assert sorted(c.ordinal for c, _, _ in rows.values()) == [0, 1]
    assert {(name, title) for _, name, title in rows.values()} == {(document.name, document.title)}


def test_an_unknown_document_is_a_not_found_error_with_the_next_step(store: ChunkStore) -> None:
    with pytest.raises(NotFoundError, match="nothing-like-it") as caught:
        store.document("nothing-like-it")
    assert caught.value.hint
    assert store.chunks("nothing-like-it") == []


def test_a_chunk_that_is_gone_is_left_out_of_what_is_fetched(store: ChunkStore) -> None:
    publish(store, ("a.md", "年假"))
    (candidate,) = store.search("年假", EMBEDDER.embed_query("年假"), limit=5)
    assert list(store.fetch([candidate.chunk_id, 987_654])) == [candidate.chunk_id]
    publish(store, remove=["a.md"])
    assert store.fetch([candidate.chunk_id]) == {}


# --- searching ------------------------------------------------------------------------------------


def test_candidates_of_both_legs_have_both_scores(store: ChunkStore) -> None:
    publish(store, *((f"{n}.md", f"filler number {n} 填充") for n in range(30)))
    publish(store, ("word.md", "zebra " * 20 + "unrelated " * 200), ("near.md", "zebras live here"))
    question = "zebra"
    vector = EMBEDDER.embed_query("zebras live here")
    candidates = store.search(question, vector, limit=3)
    rows = store.fetch([c.chunk_id for c in candidates])
    by_name = {rows[c.chunk_id][1]: c for c in candidates}
    assert by_name["near.md"].via == "both"
    assert by_name["word.md"].via == "keyword"
    assert {c.via for c in candidates} == {"both", "keyword", "dense"}
    for name, candidate in by_name.items():
        text = rows[candidate.chunk_id][0].embedded_text
        expected = float(EMBEDDER.embed_documents([text])[0] @ vector)
        assert candidate.dense == pytest.approx(expected, abs=1e-5)
        assert (candidate.keyword > 0) == ("zebra" in text)
        assert 0 <= candidate.coverage <= 1
        assert 0 <= candidate.share <= 1
        if name in ("near.md", "word.md"):
            assert candidate.share == candidate.coverage == 1


def test_coverage_and_share_tell_how_much_of_the_question_is_held(store: ChunkStore) -> None:
    publish(store, ("half.md", "zebra"), ("whole.md", "zebra quagga"), ("none.md", "hotel"))
    candidates = store.search("zebra quagga", EMBEDDER.embed_query("zebra quagga"), limit=5)
    rows = store.fetch([c.chunk_id for c in candidates])
    share = {rows[c.chunk_id][1]: c.share for c in candidates}
    coverage = {rows[c.chunk_id][1]: c.coverage for c in candidates}
    assert share == {"half.md": 0.5, "whole.md": 1.0, "none.md": 0.0}
    assert coverage["whole.md"] == pytest.approx(1.0)
    assert 0 < coverage["half.md"] < 0.5  # quagga is the rarer word
    assert coverage["none.md"] == 0


def test_each_leg_gives_no_more_than_the_limit(store: ChunkStore) -> None:
    publish(store, *((f"{n}.md", f"zebra {n}") for n in range(20)))
    candidates = store.search("zebra", EMBEDDER.embed_query("zebra 3"), limit=4)
    assert 4 <= len(candidates) <= 8
    assert sum(c.via != "keyword" for c in candidates) == 4
    assert sum(c.via != "dense" for c in candidates) == 4


@pytest.mark.parametrize(
    "question",
    [
        "",
        "?!。",
        "的",
        "AND OR NOT",
        '"unbalanced',
        "terms:zebra",
        "(a",
        "*",
        "\x00",
        "zebra " * 500,
    ],
)
def test_no_question_is_an_error(store: ChunkStore, question: str) -> None:
    publish(store, ("a.md", "zebra"))
    assert found(store, question) == {"zebra": "a.md"}


# --- filters --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(chosen: Open, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChunkStore]:
    """A store that no test changes."""
    store = chosen(tmp_path_factory.mktemp("many"))
    with store.writer(MINE) as writer:
        for n in range(60):
            put(writer, f"bulk/{n}.md", f"年假 leave 正文 {n}")
        put(writer, "hr/leave.md", "年假 leave 一", tags=("hr", "公开"))
        put(writer, "hr/costs.pdf", "差旅 costs 二", tags=("hr",))
        put(writer, "it/[new].md", "账号 account 三", tags=("it", "公开"))
        writer.publish()
    store.refresh()
    yield store
    store.close()


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(documents=("id-hr/leave.md",)), {"hr/leave.md"}),
        (Filters(documents=("hr/leave.md", "id-hr/costs.pdf")), {"hr/leave.md", "hr/costs.pdf"}),
        (Filters(tags=("hr",)), {"hr/leave.md", "hr/costs.pdf"}),
        (Filters(tags=("公开", "none")), {"hr/leave.md", "it/[new].md"}),
        (Filters(paths=("hr/*",)), {"hr/leave.md", "hr/costs.pdf"}),
        (Filters(paths=("*.pdf", "it/*")), {"hr/costs.pdf", "it/[new].md"}),
        (Filters(paths=("it/[[]new[]].md",)), {"it/[new].md"}),
        (Filters(types=("pdf",)), {"hr/costs.pdf"}),
        (Filters(types=(".PDF",)), {"hr/costs.pdf"}),
        (Filters(tags=("hr",), types=("md",)), {"hr/leave.md"}),
        (Filters(tags=("公开",), paths=("hr/*",), documents=("hr/leave.md",)), {"hr/leave.md"}),
        (Filters(tags=("hr",), paths=("it/*",)), set()),
        (Filters(documents=("' OR 1=1 --",)), set()),
        (Filters(tags=('hr" OR',)), set()),
    ],
)
def test_a_filter_finds_all_that_pass_and_nothing_else(
    many: ChunkStore, filters: Filters, expected: set[str]
) -> None:
    assert set(names(many, filters)) == expected
    # Few among many: the others are nearer to the question in both legs.
    assert set(found(many, "年假 leave 正文", limit=5, filters=filters).values()) == expected


def test_a_filter_may_name_thousands(many: ChunkStore) -> None:
    ids = tuple(f"id-bulk/{n}.md" for n in range(5000))
    assert len(names(many, Filters(documents=ids))) == 60
    assert len(found(many, "年假", filters=Filters(documents=ids))) == 60
    assert len(names(many, Filters(paths=("none",) * 3000 + ("hr/*",)))) == 2


def test_a_filter_sees_what_was_published_before_anyone_refreshed(opened: Opener) -> None:
    store, reader = opened(), opened()
    publish(store, ("a.md", "旧的年假"), ("b.md", "hotel"))
    reader.refresh()
    publish(store, ("a.md", "新的年假"))
    assert found(reader, "年假", filters=Filters(documents=("a.md",))) == {"新的年假": "a.md"}


# --- one writer at a time -------------------------------------------------------------------------


def test_other_vectors_are_refused_by_name(store: ChunkStore) -> None:
    publish(store, ("a.md", "年假"))
    with pytest.raises(FingerprintError, match=r"fake.*other") as caught, store.writer(OTHER):
        pytest.fail("a writer with other vectors was let in")
    assert "rag reindex" in caught.value.hint
    publish(store, ("b.md", "still writable"))


_HOLD = """
import sys
from pathlib import Path
from tests.fakes import FakeEmbedder
from tests.test_store_contract import IMPLEMENTATIONS, put
store = IMPLEMENTATIONS[sys.argv[1]](Path(sys.argv[2]))
with store.writer(FakeEmbedder().fingerprint) as writer:
    put(writer, "held.md", "put by the other process")
    print("holding", flush=True)
    sys.stdin.readline()
"""


@each_implementation
def test_a_second_writer_is_told_who_holds_it_and_a_dead_one_holds_nothing(
    implementation: str, tmp_path: Path
) -> None:
    store = IMPLEMENTATIONS[implementation](tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, implementation, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "holding\n"
        with pytest.raises(BusyError, match=str(other.pid)) as caught, store.writer(MINE):
            pytest.fail("two writers at once")
        assert caught.value.retryable
        assert names(store) == []
        other.kill()
    with store.writer(MINE) as writer:
        assert list(writer.known()) == ["file:held.md"]
        writer.publish()
    assert names(store) == ["held.md"]
    store.close()


def test_a_second_writer_in_this_process_is_refused_too(opened: Opener) -> None:
    with opened().writer(MINE), pytest.raises(BusyError), opened().writer(MINE):
        pytest.fail("two writers at once")


# --- a writer that died ---------------------------------------------------------------------------


def test_what_was_put_before_a_writer_died_is_kept_for_the_next(opened: Opener) -> None:
    store = opened()
    publish(store, ("a.md", "旧的"), ("gone.md", "gone"))

    def die_halfway() -> None:
        with store.writer(MINE) as writer:
            put(writer, "a.md", "新的")
            put(writer, "b.md", "another")
            writer.remove("file:gone.md")
            raise Died

    with pytest.raises(Died):
        die_halfway()
    store.refresh()
    assert set(found(store, "新的 another")) == {"旧的", "gone"}
    with opened().writer(MINE) as writer:
        assert set(writer.known()) == {"file:a.md", "file:b.md", "file:gone.md"}
        put(writer, "b.md", "another")
        writer.publish()
    store.refresh()
    assert found(store, "新的") == {"新的": "a.md", "another": "b.md", "gone": "gone.md"}
    assert sorted(names(store)) == ["a.md", "b.md", "gone.md"]


def test_what_is_known_is_found_by_uri_by_prefix_and_by_content(store: ChunkStore) -> None:
    publish(store, ("a/1.md", "x"), ("a/2.md", "y"), ("a.md", "z"))
    with store.writer(MINE) as writer:
        writer.remove("file:a/1.md")
        put(writer, "a/3.md", "w", version="3")
        coming = writer.known()
        assert {u: i.name for u, i in coming.some(["file:a/1.md", "file:a/3.md"]).items()} == {
            "file:a/3.md": "a/3.md"
        }
        assert list(coming.below("file:a/")) == ["file:a/2.md", "file:a/3.md"]
        assert set(coming.holding(["1"])) == {"file:a/2.md", "file:a.md"}
        assert len(coming) == 3
        published = store.known()
        assert "file:a/1.md" in published
        assert "file:a/3.md" not in published
        assert published["file:a/2.md"].name == "a/2.md"
        assert list(published.below("file:a/")) == ["file:a/1.md", "file:a/2.md"]
        assert list(published.holding(["3"])) == []
        writer.publish()
    assert set(store.known()) == {"file:a/2.md", "file:a/3.md", "file:a.md"}
    assert list(store.known().holding(["2", "3"])) == ["file:a/3.md"]


def test_known_is_what_publishing_now_would_show(store: ChunkStore) -> None:
    publish(store, ("a.md", "1"), ("b.md", "1"))
    with store.writer(MINE) as writer:
        put(writer, "b.md", "2", version="2")
        put(writer, "c.md", "2")
        writer.remove("file:a.md")
        assert {u: i.content_hash for u, i in writer.known().items()} == {
            "file:b.md": "2",
            "file:c.md": "1",
        }
        writer.publish()
    assert names(store) == ["b.md", "c.md"]


def test_stored_vectors_are_given_back_by_their_text(store: ChunkStore) -> None:
    publish(store, ("a.md", "年假", "hotel"))
    with store.writer(MINE) as writer:
        put(writer, "b.md", "staged")
        texts = [f"Title of {n}" for n in ("a.md\n年假", "a.md\nhotel", "b.md\nstaged", "new")]
        vectors = writer.vectors(texts)
        assert set(vectors) == set(texts[:3])
        for text, vector in vectors.items():
            assert np.allclose(vector, EMBEDDER.embed_query(text), atol=1e-6)
        assert writer.vectors([]) == {}


# --- many at once ---------------------------------------------------------------------------------


def test_questions_and_a_writer_run_at_once_and_each_sees_one_generation(
    opened: Opener,
) -> None:
    store = opened()
    publish(store, *((f"{n}.md", f"年假 version 0 of {n}") for n in range(5)))
    stop, ready, wrong = threading.Event(), threading.Barrier(3), []

    def ask() -> None:
        ready.wait()
        while not stop.is_set():
            store.refresh()
            seen = sorted(names(store))
            if seen != [f"{n}.md" for n in range(5)]:
                wrong.append(seen)

    readers = [threading.Thread(target=ask) for _ in range(2)]
    for reader in readers:
        reader.start()
    ready.wait()
    for version in range(1, 8):
        publish(store, *((f"{n}.md", f"年假 version {version} of {n}") for n in range(5)))
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert set(found(store, "年假")) == {f"年假 version 7 of {n}" for n in range(5)}


# --- any sequence of events -----------------------------------------------------------------------

NAMES = st.sampled_from(["a.md", "b.md", "c.txt", "d.pdf"])
WORDS = ["年假", "hotel", "costs", "zebra", "病假", "laptop"]
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)


class AgainstAModel(RuleBasedStateMachine):
    """A store does whatever a dictionary of published and one of staged documents would."""

    implementation: Open
    folder: Path
    runs = 0

    @initialize()
    def start(self) -> None:
        type(self).runs += 1
        self.place = self.folder / str(self.runs)
        self.store = self.implementation(self.place)
        self.reader = self.implementation(self.place)
        self.context: Any = None
        self.writer: StoreWriter | None = None
        self.published: dict[str, tuple[str, ...]] = {}
        self.staged: dict[str, tuple[str, ...]] = {}
        self.removed: set[str] = set()
        self.serial = 0

    def _coming(self) -> dict[str, tuple[str, ...]]:
        kept = {n: t for n, t in self.published.items() if n not in self.removed}
        return kept | self.staged

    @precondition(lambda self: self.writer is None)
    @rule()
    def begin(self) -> None:
        self.context = self.store.writer(MINE)
        self.writer = self.context.__enter__()

    @precondition(lambda self: self.writer is not None)
    @rule(name=NAMES, texts=st.lists(TEXTS, max_size=3))
    def put(self, name: str, texts: list[str]) -> None:
        self.serial += 1
        texts = [f"{text} {self.serial}/{n}" for n, text in enumerate(texts)]
        put(self.writer, name, *texts)  # type: ignore[arg-type]
        self.staged[name] = tuple(texts)
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
        self.writer.publish()  # type: ignore[union-attr]
        self.published, self.staged, self.removed = self._coming(), {}, set()

    @precondition(lambda self: self.writer is not None)
    @rule(died=st.booleans())
    def end(self, died: bool) -> None:
        error = Died() if died else None
        try:
            self.context.__exit__(type(error) if error else None, error, None)
        except Died:
            assert died
        self.writer, self.removed = None, set()

    @precondition(lambda self: self.writer is None)
    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.implementation(self.place)

    @precondition(lambda self: self.writer is not None)
    @rule()
    def look_ahead(self) -> None:
        known = self.writer.known()  # type: ignore[union-attr]
        assert {i.name for i in known.values()} == set(self._coming())

    @rule(word=st.sampled_from(WORDS), name=st.none() | NAMES, other=st.booleans())
    def look(self, word: str, name: str | None, other: bool) -> None:
        store = self.reader if other else self.store
        store.refresh()
        assert {i.name: i.chunks for i in store.documents()} == {
            n: len(t) for n, t in self.published.items()
        }
        filters = Filters(documents=(name,)) if name else Filters()
        expected = {
            text: n for n, texts in self.published.items() for text in texts if name in (None, n)
        }
        assert found(store, word, filters=filters) == expected
        candidates = store.search(word, EMBEDDER.embed_query(word), limit=100, filters=filters)
        rows = store.fetch([c.chunk_id for c in candidates])
        with_word = {rows[c.chunk_id][0].text for c in candidates if c.share > 0}
        assert with_word == {text for text in expected if word in text}

    def teardown(self) -> None:
        if getattr(self, "store", None) is not None:
            if self.writer is not None:
                self.end(died=True)
            self.store.close()
            self.reader.close()


@each_implementation
def test_any_sequence_of_events_equals_a_simple_model(implementation: str, tmp_path: Path) -> None:
    class Machine(AgainstAModel):
        folder = tmp_path

    Machine.implementation = staticmethod(IMPLEMENTATIONS[implementation])
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=25, stateful_step_count=25, deadline=None, derandomize=True, database=None
        ),
    )


def test_the_stamp_names_what_is_seen_and_no_other_knowledge_base(
    opened: Opener, tmp_path: Path
) -> None:
    server, writing = opened(), opened()
    stamps = {server.stamp}
    for version in "12":
        with writing.writer(MINE) as writer:
            put(writer, "a.md", "text", version=version)
            writer.publish()
        before = server.stamp
        assert before in stamps, "what is seen has not moved on yet"
        server.refresh()
        assert server.stamp == writing.stamp
        stamps.add(server.stamp)
    assert len(stamps) == 3
    elsewhere = opened.at(tmp_path / "elsewhere")
    assert elsewhere.stamp not in stamps
