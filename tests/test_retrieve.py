"""From a question to hits: fused, scored 0..1, above the threshold, no text twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.calibrate import Calibration
from rag.engine import Engine
from rag.retrieve import Retriever, fused, with_topic
from rag.types import (
    Candidate,
    Chunk,
    ChunkStore,
    Filters,
    Fingerprint,
    Hit,
    Message,
)
from tests.fakes import FakeEmbedder

FAST = settings(deadline=None, derandomize=True, database=None, max_examples=60)
CALIBRATION = Calibration(0.2, {tongue: np.zeros((1, 64), np.float32) for tongue in ("zh", "en")})


class Listed:
    """A store that finds what it is told; `vanish` says which chunks go between the two steps."""

    fingerprint = FakeEmbedder().fingerprint

    def __init__(self, *found: tuple[Candidate, str]) -> None:
        self.found = {c.chunk_id: (c, text) for c, text in found}
        self.vanish: list[int] = []
        self.refreshed = 0
        self.fingerprint: Fingerprint | None = None
        self.asked: list[str] = []

    def search(
        self, question: str, vector: object, *, limit: int, filters: Filters = Filters()
    ) -> list[Candidate]:
        self.asked.append(question)
        return [c for c, _ in self.found.values()]

    def fetch(self, chunk_ids: list[int]) -> dict[int, tuple[Chunk, str, str]]:
        for gone in self.vanish:
            self.found.pop(gone, None)
        return {
            i: (
                Chunk(document_id="d", ordinal=i, start=0, end=len(text), text=text),
                f"{i}.md",
                "T",
            )
            for i, (_, text) in self.found.items()
            if i in chunk_ids
        }

    def refresh(self) -> bool:
        self.refreshed += 1
        return True


def candidate(
    chunk_id: int,
    dense: float = 0.5,
    keyword: float = 0.0,
    coverage: float = 0.0,
    share: float = 0.0,
) -> Candidate:
    return Candidate(chunk_id, dense, keyword, coverage, share, "both")


def retriever(store: Listed, *, threshold: float = 0.0) -> Retriever:
    listed: ChunkStore = store  # type: ignore[assignment]
    return Retriever(listed, FakeEmbedder(), CALIBRATION, candidates=50, threshold=threshold)


def names(hits: list[Hit]) -> list[str]:
    return [hit.document for hit in hits]


def test_both_legs_together_decide_the_order() -> None:
    store = Listed(
        (candidate(1, dense=0.50), "one"),
        (candidate(2, dense=0.45, keyword=20, coverage=1.0), "two"),
        (candidate(3, dense=0.48, keyword=20, coverage=0.1), "three"),
    )
    assert names(retriever(store).retrieve("question", top_k=5)) == ["2.md", "3.md", "1.md"]


@FAST
@given(st.floats(-1, 1), st.floats(0, 60), st.floats(0, 1), st.floats(0, 1), st.floats(0, 60))
def test_more_of_either_sign_never_ranks_lower(
    dense: float, keyword: float, coverage: float, more: float, extra: float
) -> None:
    base = fused(candidate(1, dense, keyword, coverage), 0.012)
    assert fused(candidate(1, min(dense + more, 1), keyword, coverage), 0.012) >= base - 1e-9
    assert fused(candidate(1, dense, keyword + extra, coverage), 0.012) >= base - 1e-9


def test_equal_scores_have_a_fixed_order() -> None:
    store = Listed(*((candidate(i), f"t{i}") for i in (3, 1, 2)))
    assert names(retriever(store).retrieve("q", top_k=5)) == ["1.md", "2.md", "3.md"]


def test_a_text_is_shown_once_and_the_rest_moves_up() -> None:
    store = Listed(
        *((candidate(i, dense=0.9), "the same notice") for i in range(1, 30)),
        (candidate(40, dense=0.5), "another"),
        (candidate(41, dense=0.4), "a third"),
    )
    hits = retriever(store).retrieve("q", top_k=3)
    assert [h.chunk.text for h in hits] == ["the same notice", "another", "a third"]


@pytest.mark.parametrize("top_k", [1, 3, 5])
def test_no_more_than_top_k_come_back(top_k: int) -> None:
    store = Listed(*((candidate(i), f"t{i}") for i in range(1, 20)))
    assert len(retriever(store).retrieve("q", top_k=top_k)) == top_k


def test_nothing_is_found_if_the_best_is_below_the_threshold() -> None:
    store = Listed((candidate(1, 0.6), "near"), (candidate(2, 0.1), "far"))  # 0.4 and 0.07
    assert retriever(store, threshold=0.41).retrieve("q", top_k=5) == []
    assert names(retriever(store, threshold=0.39).retrieve("q", top_k=5)) == ["1.md", "2.md"]


def test_a_question_may_bring_its_own_threshold() -> None:
    store = Listed((candidate(1, 0.6), "near"))
    assert retriever(store, threshold=0.0).retrieve("q", top_k=5, threshold=0.5) == []
    assert retriever(store, threshold=0.5).retrieve("q", top_k=5, threshold=0.0)


def test_the_score_is_two_thirds_relatedness_and_one_third_shared_terms() -> None:
    store = Listed((candidate(1, dense=0.6, share=0.3), "text"))
    assert retriever(store).retrieve("q", top_k=1)[0].score == pytest.approx(0.5)


def test_across_languages_the_cosine_does_alone() -> None:
    store = Listed((candidate(1, dense=0.6), "中文资料"))
    assert retriever(store).retrieve("q", top_k=1)[0].score == pytest.approx(0.9)


@FAST
@given(
    st.lists(
        st.tuples(
            st.floats(-1, 1), st.floats(0, 99), st.floats(0, 1), st.floats(0, 1), st.booleans()
        ),
        max_size=8,
    ),
    st.sampled_from(["年假有几天？", "How many days?"]),
)
def test_every_score_lies_within_zero_and_one(
    rows: list[tuple[float, float, float, float, bool]], question: str
) -> None:
    store = Listed(
        *(
            (candidate(i, *row[:4]), f"文本{i}" if row[4] else f"text {i}")
            for i, row in enumerate(rows, 1)
        )
    )
    for hit in retriever(store).retrieve(question, top_k=8):
        assert 0 <= hit.score <= 1


def test_a_replaced_chunk_is_looked_for_again() -> None:
    store = Listed((candidate(1, 0.9), "old"), (candidate(2, 0.5), "other"))
    store.vanish = [1]
    assert names(retriever(store).retrieve("q", top_k=5)) == ["2.md"]
    assert store.refreshed == 1
    assert len(store.asked) == 2


@pytest.mark.parametrize(
    "follow_up",
    ["那它怎么申请？", "还有呢？", "多少天？", "这个可以顺延吗？", "and how do I apply for it?",
     "what about contractors", "How long?", "Does that include weekends and public holidays?"],
)  # fmt: skip
def test_a_follow_up_takes_the_earlier_topic(follow_up: str) -> None:
    history = [Message("user", "年假制度 annual leave"), Message("assistant", "十五天。")]
    assert with_topic(follow_up, history) == f"年假制度 annual leave\n{follow_up}"


@pytest.mark.parametrize(
    "question",
    ["出差住宿费的报销标准上限定为多少？", "Where do employees submit travel expense receipts?"],
)
def test_a_question_that_stands_alone_is_left_alone(question: str) -> None:
    history = [Message("user", "年假制度"), Message("assistant", "十五天。")]
    assert with_topic(question, history) == question


def test_without_history_a_question_is_left_alone() -> None:
    assert with_topic("多少天？", []) == "多少天？"
    assert with_topic("多少天？", [Message("assistant", "您好")]) == "多少天？"


def test_the_topic_is_that_of_the_latest_question() -> None:
    history = [Message("user", "一"), Message("assistant", "a"), Message("user", "二")]
    assert with_topic("多少天？", history).startswith("二\n")


@pytest.fixture
def policies(engine: Engine, folder: Callable[..., Path]) -> Iterator[Engine]:
    engine.ingest(
        [
            folder(
                **{
                    "leave.md": "# 年假\n\n员工每年有十五天年假。\n",
                    "costs.md": "# Costs\n\nHotels cost up to 800 CNY a night.\n",
                }
            )
        ]
    )
    return engine


def test_a_whole_engine_finds_the_right_document_in_both_languages(policies: Engine) -> None:
    assert policies.retrieve("每年有几天年假？")[0].document == "leave.md"
    assert policies.retrieve("how much do hotels cost a night")[0].document == "costs.md"


def test_the_earlier_question_decides_what_a_follow_up_finds(policies: Engine) -> None:
    retriever = policies.knowledge_base().retriever
    history = [Message("user", "How much do hotels cost?"), Message("assistant", "800")]
    hits = retriever.retrieve("And how much is it?", top_k=1, history=history)
    assert hits[0].document == "costs.md"


def test_filters_narrow_what_is_found(policies: Engine) -> None:
    hits = policies.retrieve("每年有几天年假？", filters=Filters(documents=("costs.md",)))
    assert names(hits) == ["costs.md"]
