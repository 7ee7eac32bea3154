"""Keywords that Milvus ranks itself: they mean what those of our own index mean."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rag.errors import StoreError
from rag.stores.milvus import MilvusStore
from rag.stores.milvus.fields import fitting, has_bm25
from rag.stores.milvus.link import NO_PINGS, Link
from rag.stores.milvus.repair import repair
from rag.stores.milvus.verify import verify
from rag.text import terms
from rag.types import Candidate
from tests.test_store_contract import (  # noqa: F401 - the fixture
    EMBEDDER,
    found,
    milvus_server,
    publish,
)
from tests.test_store_milvus import open_at

Open = Callable[..., MilvusStore]

TEXTS = (
    "员工每年有十五天年假，没休完的年假最晚可以留到明年三月底。",
    "年假要提前两周申请，由直属主管批准。",
    "病假需要医院证明，三天以内由主管批准。",
    "出差住宿每晚不超过六百元，超出部分由主管说明理由后报销。",
    "Hotels are booked through the travel desk, at most 120 euros a night.",
    "You may work from abroad for thirty days a year; tell your manager two weeks ahead.",
    "A laptop is replaced after four years, or when it breaks.",
)
QUESTIONS = (
    "没休完的年假最晚什么时候休？",
    "病假由谁批准？",
    "How many days a year may I work from abroad?",
    "hotel price per night zeppelin",
    "的",
)


def test_terms_are_those_of_our_own_index() -> None:
    assert (
        fitting("年假 Hotels!").split(" ") == terms("年假 Hotels!") == ["年", "假", "年假", "hotel"]
    )


def test_a_text_without_terms_still_fills_the_field() -> None:
    assert terms(fitting("…！")) == []
    assert fitting("…！") != ""


def test_a_long_text_is_cut_between_terms_to_what_milvus_takes() -> None:
    whole = "年假规定" * 6000
    held = fitting(whole)
    assert 65_000 < len(held.encode()) <= 65_535
    assert held.split(" ") == terms(whole)[: len(held.split(" "))]


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        *((old, False) for old in ("v2.3.5", "2.4.23", "", "Zilliz Cloud")),
        *((new, True) for new in ("2.5.0-beta", "v2.6.1", "3.0")),
    ],
)
def test_the_version_tells_whether_a_server_ranks(version: str, expected: bool) -> None:
    assert has_bm25(version) is expected


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Open]:
    """Opens a store on Milvus Lite, each `name` at a place of its own."""
    opened: list[MilvusStore] = []

    def another(name: str = "base", **options: object) -> MilvusStore:
        place = tmp_path / name
        place.mkdir(exist_ok=True)
        opened.append(open_at(place, str(place / "milvus.db"), **options))
        return opened[-1]

    yield another
    for store in opened:
        store.close()


def asked(store: MilvusStore, question: str) -> dict[str, Candidate]:
    candidates = store.search(question, EMBEDDER.embed_query(question), limit=20)
    rows = store.fetch([c.chunk_id for c in candidates])
    return {rows[c.chunk_id][0].text: c for c in candidates}


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_share_coverage_and_bm25_are_what_our_own_index_says(lite: Open) -> None:
    ours, milvus = lite("ours"), lite("milvus", keywords="server")
    for store in (ours, milvus):
        publish(store, *((f"{n}.md", text) for n, text in enumerate(TEXTS)))
    for question in QUESTIONS:
        expected, held = asked(ours, question), asked(milvus, question)
        assert set(held) == set(expected)
        for text, candidate in held.items():
            assert candidate.share == pytest.approx(expected[text].share)
            assert candidate.coverage == pytest.approx(expected[text].coverage, abs=0.01)
            assert candidate.keyword == pytest.approx(expected[text].keyword, rel=0.1)
            assert candidate.via == expected[text].via


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_nothing_is_kept_on_this_machine(lite: Open) -> None:
    store = lite(keywords="server")
    publish(store, ("a.md", TEXTS[0]))
    assert asked(store, QUESTIONS[0])[TEXTS[0]].keyword > 0
    assert verify(store).ok
    assert not list(store.caches.glob("keywords*"))


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_a_collection_without_terms_is_searched_with_our_own_index(lite: Open) -> None:
    publish(lite(), ("a.md", TEXTS[0]))
    store = lite(keywords="server")
    publish(store, ("b.md", TEXTS[1]))
    held = asked(store, "年假")
    assert [held[text].keyword > 0 for text in TEXTS[:2]] == [True, True]
    assert list(store.caches.glob("keywords*"))


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_who_does_not_use_the_terms_fills_them_all_the_same(lite: Open) -> None:
    publish(lite(keywords="server"), ("a.md", TEXTS[0]))
    publish(lite(), ("b.md", TEXTS[1]))
    held = asked(lite(keywords="server"), "年假")
    assert [held[text].keyword > 0 for text in TEXTS[:2]] == [True, True]


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_rows_that_are_mended_have_their_terms_again(lite: Open) -> None:
    store = lite(keywords="server")
    publish(store, ("a.md", TEXTS[0]), ("b.md", TEXTS[1]))
    lost = asked(store, "年假")[TEXTS[0]].chunk_id
    (name,) = store.milvus.names("rag_")
    store.milvus.delete(name, [lost])
    assert not verify(store).ok
    repair(store, embed=lambda _, texts: EMBEDDER.embed_documents(texts))
    assert verify(store).ok
    assert asked(store, "年假")[TEXTS[0]].keyword > 0


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_milvus_lite_is_only_asked_where_that_is_wanted(lite: Open) -> None:
    store = lite(keywords="auto")
    publish(store, ("a.md", TEXTS[0]))
    assert asked(store, "年假")[TEXTS[0]].keyword > 0
    assert list(store.caches.glob("keywords*"))


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_milvus_lite_is_not_pinged(tmp_path: Path) -> None:
    """It answers that with a complaint on standard error, after a minute or two."""
    link = Link(str(tmp_path / "milvus.db"), "", timeout=30)
    assert link.client._handler._grpc_options == NO_PINGS
    link.close()


@pytest.mark.slow
@pytest.mark.milvus
@pytest.mark.usefixtures("milvus_server")
def test_a_server_that_cannot_rank_says_so_or_is_not_asked(tmp_path: Path) -> None:
    uri = os.environ["RAG_TEST_MILVUS_URI"]
    (tmp_path / "wanted").mkdir()
    with pytest.raises(StoreError, match=r"2\.3") as caught:
        publish(open_at(tmp_path / "wanted", uri, keywords="server"), ("a.md", TEXTS[0]))
    assert "local" in caught.value.hint
    (tmp_path / "auto").mkdir()
    store = open_at(tmp_path / "auto", uri, keywords="auto")
    publish(store, ("a.md", TEXTS[0]))
    assert found(store, "年假") == {TEXTS[0]: "a.md"}
    store.close()
