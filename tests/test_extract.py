"""Answers without a model: whole sentences of the hits, the ones nearest to the question."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from rag.extract import Extractor, row_header
from rag.types import Hit
from tests.fakes import FakeEmbedder
from tests.test_citations import COSTS, LEAVE, hit

if TYPE_CHECKING:
    from rag.types import Vector

EXTRACTOR = Extractor(FakeEmbedder(), spread=1.0)


def quotes(question: str, *texts: str) -> list[str]:
    hits = [hit(text) for text in texts]
    return [
        hits[e.n - 1].chunk.text[e.start - 100 : e.end - 100]
        for e in EXTRACTOR.best(question, hits)
    ]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("病假需要什么证明？", "病假需要医院证明。"),
        ("how much do meals cost a day", "Meals cost up to 120 CNY a day."),
        ("keep the receipts?", "Keep the receipts."),
    ],
)
def test_the_sentence_nearest_to_the_question_comes_first(question: str, expected: str) -> None:
    assert quotes(question, LEAVE, COSTS)[0] == expected


def test_a_number_is_preferred_where_one_is_asked_for() -> None:
    class Indifferent(FakeEmbedder):
        def _vector(self, text: str) -> Vector:
            return super()._vector("all texts are equal")

    hits = [hit("The limit is some files."), hit("The limit is 40 files.")]
    best = Extractor(Indifferent()).best("how many files is the limit", hits)
    assert best[0].n == 2
    assert Extractor(Indifferent()).best("which files", hits)[0].n == 1


def test_one_to_three_whole_sentences_are_chosen() -> None:
    text = "Costs are high. " * 10
    for question in ("Costs", "Are costs high?", "nothing in common"):
        assert 1 <= len(quotes(question, text)) <= 3


def test_scores_fall_and_offsets_lie_within_the_hit() -> None:
    hits = [hit(LEAVE), hit(COSTS)]
    extracts = EXTRACTOR.best("年假有几天？", hits)
    assert [e.score for e in extracts] == sorted((e.score for e in extracts), reverse=True)
    for extract in extracts:
        chunk = hits[extract.n - 1].chunk
        assert chunk.start <= extract.start < extract.end <= chunk.end


def test_hits_without_text_give_nothing() -> None:
    nothing: list[Hit] = []
    assert EXTRACTOR.best("年假", nothing) == []


def test_a_huge_passage_costs_a_bounded_number_of_embeddings() -> None:
    embedder = FakeEmbedder()
    Extractor(embedder).best("Costs?", [hit("Costs are high. " * 500)])
    assert embedder.texts <= 81


def test_only_a_row_is_told_below_the_header_of_its_table() -> None:
    chunk = replace(hit(COSTS).chunk, context="Travel\nCity | Hotel")
    assert row_header(chunk, "Beijing | 650") == "City | Hotel"
    assert row_header(chunk, "Two who share a room may spend more.") == ""
    assert row_header(replace(chunk, context="Travel\nCity"), "Beijing") == "City"
