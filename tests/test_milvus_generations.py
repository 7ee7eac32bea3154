"""Earlier generations of a knowledge base in Milvus come back whole, and old ones go for good."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from rag.application import ApplicationDatabase
from rag.errors import BusyError
from rag.stores.milvus import MilvusStore, generations
from rag.stores.milvus.link import Link
from rag.types import Filters
from tests.test_generations import (
    KEEP,
    NEW,
    OLD,
    AgainstAModel,
    dies_after,
    found_by,
    reindex,
    test_a_chosen_generation_comes_back,
    test_a_reader_that_lags_behind_gc_catches_up,
    test_a_rollback_is_rolled_back_by_the_next,
    test_a_text_of_a_kept_generation_is_not_embedded_again_but_never_with_other_vectors,
    test_after_another_model_the_old_vectors_answer_again,
    test_an_empty_one_has_none,
    test_generations_tell_what_they_hold,
    test_nobody_rolls_back_while_another_writes,
    test_one_that_came_back_before_comes_back_again,
    test_the_generation_before_comes_back_as_a_new_one,
    test_there_must_be_one_to_bring_back,
    test_what_a_writer_that_died_had_put_is_for_the_generation_after,
    test_what_came_back_can_be_changed_and_removed,
)
from tests.test_store_contract import MINE, Died, found, names, publish, put
from tests.test_store_milvus import open_at, rows_in_milvus

pytestmark = [pytest.mark.slow, pytest.mark.milvus_lite]

# What an embedded knowledge base promises, of one in Milvus: pytest finds these here.
__all__ = [
    "test_a_chosen_generation_comes_back",
    "test_a_reader_that_lags_behind_gc_catches_up",
    "test_a_rollback_is_rolled_back_by_the_next",
    "test_a_text_of_a_kept_generation_is_not_embedded_again_but_never_with_other_vectors",
    "test_after_another_model_the_old_vectors_answer_again",
    "test_an_empty_one_has_none",
    "test_generations_tell_what_they_hold",
    "test_nobody_rolls_back_while_another_writes",
    "test_one_that_came_back_before_comes_back_again",
    "test_the_generation_before_comes_back_as_a_new_one",
    "test_there_must_be_one_to_bring_back",
    "test_what_a_writer_that_died_had_put_is_for_the_generation_after",
    "test_what_came_back_can_be_changed_and_removed",
]

Open = Callable[[], MilvusStore]


def open_lite(place: Path, **options: Any) -> MilvusStore:
    return open_at(place, str(place / "milvus.db"), **{"keep_generations": KEEP} | options)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    stores: list[MilvusStore] = []

    def open_one() -> MilvusStore:
        stores.append(open_lite(tmp_path))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Open) -> MilvusStore:
    return opened()


def count(store: MilvusStore, table: str) -> int:
    with store.records.part.reading() as connection:
        return int(connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one())


def test_bringing_back_asks_nothing_of_milvus_and_changes_nothing_there(
    store: MilvusStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, ("a.md", "one"), ("b.md", "hotel"))
    publish(store, ("a.md", "two"), remove=["b.md"])
    before = rows_in_milvus(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Link, "client", property(dies_after(0)))
        assert store.rollback() == 3
    assert rows_in_milvus(tmp_path) == before == [3]
    assert found(store, "?") == {"one": "a.md", "hotel": "b.md"}


def test_a_reader_that_lags_behind_a_rollback_sees_its_whole_generation(
    opened: Open, store: MilvusStore
) -> None:
    reader = opened()
    publish(store, ("a.md", "one"), ("b.md", "hotel"))
    reader.refresh()
    publish(store, ("a.md", "two"), remove=["b.md"])
    store.rollback()
    before = reader.stamp
    assert found(reader, "?") == {"one": "a.md", "hotel": "b.md"}
    assert reader.stamp == before != store.stamp


def test_only_as_many_rows_are_in_milvus_as_kept_generations_show(
    store: MilvusStore, tmp_path: Path
) -> None:
    for n in range(6):
        publish(store, ("a.md", f"version {n}"))
    assert [g.number for g in store.generations()] == [6, 5, 4]
    assert rows_in_milvus(tmp_path) == [3]
    freed = store.gc(keep=0)
    assert (freed.generations, freed.documents, freed.chunks) == (2, 2, 2)
    assert rows_in_milvus(tmp_path) == [1]
    assert found(store, "?") == {"version 5": "a.md"}
    assert count(store, "store_removed") == count(store, "store_dead") == 0
    assert count(store, "store_generations") == 1


def test_a_collection_goes_when_no_kept_generation_is_in_it(
    store: MilvusStore, tmp_path: Path
) -> None:
    publish(store, ("a.md", "one"), ("b.md", "hotel"))
    reindex(store, NEW)
    assert sorted(rows_in_milvus(tmp_path)) == [2, 2]
    store.gc(keep=0)
    assert rows_in_milvus(tmp_path) == [2]
    assert set(found_by(NEW, store, "?")) == {"one", "hotel"}
    reindex(store, OLD)
    store.rollback()
    store.gc(keep=0)
    assert rows_in_milvus(tmp_path) == [2]
    assert set(found_by(NEW, store, "?")) == {"one", "hotel"}


def test_hidden_rows_near_the_question_do_not_take_the_place_of_those_that_are_seen(
    opened: Open, store: MilvusStore
) -> None:
    publish(store, *((f"{n}.md", f"zebra {n}") for n in range(300)), ("seen.md", "hotel"))
    publish(store, remove=[f"{n}.md" for n in range(300)])
    with store.writer(MINE) as writer:
        for n in range(100):
            put(writer, f"new/{n}.md", f"zebra new {n}")
        writer._outbox.send()
    for each in (store, opened()):
        assert found(each, "zebra", limit=3) == {"hotel": "seen.md"}
        assert found(each, "zebra", filters=Filters(documents=("seen.md",))) == {"hotel": "seen.md"}
    store.rollback(1)
    assert len(found(store, "zebra", limit=250)) >= 250
    assert set(found(store, "zebra", limit=500)) == {f"zebra {n}" for n in range(300)} | {"hotel"}


def test_keyword_indexes_of_other_machines_follow_a_rollback(
    store: MilvusStore, tmp_path: Path
) -> None:
    elsewhere = open_lite(tmp_path, folder=tmp_path / "elsewhere")
    publish(store, ("a.md", "年假 old"), ("b.md", "hotel"))
    assert set(found(elsewhere, "年假")) == {"年假 old", "hotel"}
    publish(store, ("a.md", "年假 new"), remove=["b.md"])
    store.rollback()
    publish(store, ("c.md", "zebra"))
    store.gc(keep=0)  # what it missed is forgotten
    elsewhere.refresh()
    for each in (store, elsewhere):
        candidates = each.search("hotel zebra", OLD.embed_query("hotel zebra"), limit=9)
        rows = each.fetch([c.chunk_id for c in candidates])
        assert {rows[c.chunk_id][0].text for c in candidates if c.share} == {"hotel", "zebra"}
        assert len(rows) == 3


def test_the_records_may_be_in_postgresql(tmp_path: Path, postgres_url: str) -> None:
    database = ApplicationDatabase(postgres_url)
    name = f"generations-{secrets.token_hex(4)}"
    options: dict[str, Any] = {"uri": str(tmp_path / "milvus.db"), "folder": tmp_path / "caches"}
    store = MilvusStore(name, database, **options, timeout=30, keep_generations=KEEP)
    publish(store, ("a.md", "one"), ("b.md", "hotel"))
    publish(store, ("a.md", "two"), remove=["b.md"])
    assert store.rollback() == 3
    assert found(store, "?") == {"one": "a.md", "hotel": "b.md"}
    reindex(store, NEW)
    assert store.rollback(2) == 5
    assert found(store, "?") == {"two": "a.md"}
    assert [(g.number, g.documents, g.restores) for g in store.generations()] == [
        (5, 1, 2),
        (4, 2, None),
        (3, 2, 1),
    ]
    with store.writer(MINE), pytest.raises(BusyError):
        store.gc()
    store.gc(keep=0)
    with store.contents() as contents:
        assert [document.name for document, _, _ in contents.rows] == ["a.md"]
    assert rows_in_milvus(tmp_path) == [1]
    store.destroy()
    assert names(store) == []
    assert rows_in_milvus(tmp_path) == []
    store.close()
    database.close()


# --- any sequence of events -----------------------------------------------------------------------


class InMilvus(AgainstAModel):
    """As for an embedded one."""

    @initialize()
    def start(self) -> None:
        super().start()
        self.store.close()
        self.reader.close()
        self.place = self.folder / f"milvus-{type(self).runs}"
        self.place.mkdir()
        self.store: Any = open_lite(self.place)
        self.reader: Any = open_lite(self.place)

    @precondition(lambda self: self.writer is None and len(self.kept) > 1)
    @rule()
    def rollback_that_dies(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(generations, "record", dying)
            with pytest.raises(Died):
                self.store.rollback()

    @precondition(lambda self: self.writer is None)
    @rule(keep=st.integers(0, 3), after=st.integers(0, 2))
    def gc_that_dies(self, keep: int, after: int) -> None:
        steps = {0: "drop_unneeded", 1: "bury"}
        with pytest.MonkeyPatch.context() as patch:
            if after in steps:
                patch.setattr(generations.Graves, steps[after], dying)
            else:
                patch.setattr(generations, "delete_documents", dying)
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
        held = count(self.store, "store_documents")
        assert len(versions) + staged <= held <= len(by) + staged
        if self.kept:
            waiting = count(self.store, "store_waiting")
            rows = sum(rows_in_milvus(self.place))
            assert rows <= count(self.store, "store_chunks") <= rows + waiting

    @precondition(lambda self: self.writer is None)
    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = open_lite(self.place)


def dying(*_: object, **__: object) -> Any:
    raise Died


def test_any_sequence_of_events_equals_a_simple_model(tmp_path: Path) -> None:
    class Machine(InMilvus):
        folder = tmp_path

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=10, stateful_step_count=30, deadline=None, derandomize=True, database=None
        ),
    )
