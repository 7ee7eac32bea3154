"""What is known is looked up, not walked; what passes filters is remembered for its generation."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.stores.embedded import EmbeddedStore, known, passing
from rag.types import Filters, StoreWriter
from tests.fakes import FakeEmbedder
from tests.test_store_contract import found, make

EMBEDDER = FakeEmbedder()
MINE = EMBEDDER.fingerprint


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    opened = EmbeddedStore(tmp_path / "base")
    yield opened
    opened.close()


def put(writer: StoreWriter, name: str, text: str = "zebra") -> None:
    document, chunks = make(name, text)
    writer.put(document, chunks, EMBEDDER.embed_documents([c.embedded_text for c in chunks]))


def publish(store: EmbeddedStore, *names: str) -> None:
    with store.writer(MINE) as writer:
        for name in names:
            put(writer, name)
        writer.publish()


def test_the_uris_below_a_prefix_come_in_order_whatever_the_pages(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "_AT_ONCE", 2)
    publish(store, *(f"a/{n}.md" for n in range(5)), "a.md", "b/1.md")
    assert list(store.known().below("file:a/")) == [f"file:a/{n}.md" for n in range(5)]
    assert len(list(store.known())) == len(store.known()) == 7
    assert list(store.known().below("file:c")) == []


@given(prefix=st.text(max_size=4), text=st.text(max_size=6))
def test_exactly_what_begins_with_a_prefix_lies_before_its_end(prefix: str, text: str) -> None:
    end = known._end_of(prefix)
    key, least = text.encode("utf-8", "replace"), prefix.encode("utf-8", "replace")
    inside = key >= least and (end is None or key < end.encode())
    assert inside == key.startswith(least)


@pytest.mark.parametrize("ask", ["some", "below", "holding"])
def test_a_look_up_never_walks_all_documents(
    store: EmbeddedStore, ask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, "a.md", "b.md")
    plans: list[str] = []
    reading = store._db.reading

    class Explaining:
        def __init__(self, db: sqlite3.Connection) -> None:
            self._db = db

        def execute(self, statement: str, values: object = ()) -> sqlite3.Cursor:
            if "documents" in statement:
                rows = self._db.execute(f"EXPLAIN QUERY PLAN {statement}", values)  # type: ignore[arg-type]
                plans.extend(row[3] for row in rows)
            return self._db.execute(statement, values)  # type: ignore[arg-type]

    documents = store.known()

    @contextmanager
    def explaining() -> Iterator[Explaining]:
        with reading() as db:
            yield Explaining(db)

    monkeypatch.setattr(documents, "_reading", explaining)
    asked = {"some": ["file:a.md"], "below": "file:", "holding": ["1"]}[ask]
    assert list(getattr(documents, ask)(asked))
    assert plans
    assert not [plan for plan in plans if plan.startswith("SCAN d")]
    index = "documents_content" if ask == "holding" else "documents_uri"
    assert any(
        f"SEARCH d USING {cover}INDEX {index}" in " ".join(plans) for cover in ("", "COVERING ")
    )


def test_what_is_known_can_be_asked_while_another_thread_writes(store: EmbeddedStore) -> None:
    publish(store, "a.md")
    wrong: list[object] = []
    with store.writer(MINE) as writer:
        documents, over = writer.known(), threading.Event()

        def ask() -> None:
            while not over.is_set():
                if documents.get("file:a.md") is None:
                    wrong.append("half of a document was seen")

        asking = threading.Thread(target=ask)
        asking.start()
        for n in range(100):
            put(writer, "a.md", f"zebra {n}")
        over.set()
        asking.join()
        writer.publish()
    assert wrong == []


# --- what passes filters --------------------------------------------------------------------------


@pytest.mark.parametrize("few", [0, 20_000], ids=["from all chunks", "one by one"])
def test_filters_see_what_came_and_went_since_they_were_asked_last(
    store: EmbeddedStore, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passing, "_FEW", few)
    some = Filters(paths=("a*", "b*"))
    for n in range(6):
        publish(store, f"a{n}.md", f"b{n}.md", f"c{n}.md")
        if n:
            with store.writer(MINE) as writer:
                writer.remove(f"file:a{n - 1}.md")
                writer.publish()
        wanted = {f"a{n}.md", *(f"b{m}.md" for m in range(n + 1))}
        for _ in range(2):
            ids = store._db.allowed(some).ids
            names = {name for _, name, _ in store.fetch(ids.tolist()).values()}
            assert names == wanted
            assert (np.diff(ids) > 0).all()
    assert store._db.allowed(Filters(tags=("none",))).ids.tolist() == []


def test_a_filter_that_comes_again_is_not_worked_out_again(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, "a.md", "b.md")
    first = store._db.allowed(Filters(types=("md",)))
    assert store._db.allowed(Filters(types=("md",))) is first
    publish(store, "c.md")
    assert len(store._db.allowed(Filters(types=("md",))).ids) == 3
    monkeypatch.setattr(passing, "_KEPT", 0)
    store._db.allowed(Filters(types=("txt",)))
    assert len(store._db._remembered._passing) == 1


def test_chunks_of_all_time_are_read_anew_once_most_of_them_may_be_gone(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passing, "_FEW", 0)
    publish(store, "a.md")
    for n in range(5):
        with store.writer(MINE) as writer:
            put(writer, "a.md", f"zebra {n}")
            writer.publish()
        assert len(store._db.allowed(Filters(types=("md",))).ids) == 1
    ids = store._db._all_chunks._ids
    assert ids is not None
    assert len(ids) <= 3


@pytest.mark.parametrize("count", [3, 25])
def test_many_patterns_are_alternatives_as_few_are(store: EmbeddedStore, count: int) -> None:
    publish(store, *(f"{n}.md" for n in range(30)))
    chosen = Filters(paths=tuple(f"{n}.*" for n in range(count)))
    assert len(store.documents(chosen)) == count
    assert set(found(store, "zebra", filters=chosen).values()) <= {f"{n}.md" for n in range(count)}
