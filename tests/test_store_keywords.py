"""Terms that stand nearly everywhere cost little, and change nothing that counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rag.stores.indexes import keywords
from rag.stores.indexes.keywords import KeywordIndex, KeywordView

COMMON, RARE = "common", "rare"


@pytest.fixture
def view(tmp_path: Path) -> KeywordView:
    """200 chunks: every second holds a common word, every fiftieth a rare one."""
    index = KeywordIndex(tmp_path, "mine")
    texts = [
        f"number{i} {COMMON if i % 2 == 0 else 'other'} {RARE if i % 50 == 0 else ''}"
        for i in range(1, 201)
    ]
    index.catch_up([], [(i, 1, "", text) for i, text in enumerate(texts, 1)], 1)
    return index.view()


@pytest.fixture
def everyone_is_frequent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keywords, "_FREQUENT", 20)


def test_scores_are_the_same_for_frequent_terms(
    view: KeywordView, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk_ids = [1, 2, 3, 50, 100, 101]
    asked = f"{COMMON} {RARE} number3"
    plain = view.question(asked).matches(chunk_ids)
    monkeypatch.setattr(keywords, "_FREQUENT", 20)
    looked_up = view.question(asked).matches(chunk_ids)
    assert set(looked_up) == set(plain) == {2, 3, 50, 100}
    for i, match in plain.items():
        assert looked_up[i].bm25 == pytest.approx(match.bm25, abs=1e-4)
        assert looked_up[i].coverage == pytest.approx(match.coverage, abs=1e-4)
        assert looked_up[i].share == match.share


@pytest.mark.usefixtures("everyone_is_frequent")
def test_a_frequent_term_chooses_nothing_while_rarer_ones_do(view: KeywordView) -> None:
    assert sorted(view.question(f"{COMMON} {RARE}").search(4, None)) == [50, 100, 150, 200]


@pytest.mark.usefixtures("everyone_is_frequent")
def test_where_rarer_terms_find_too_little_frequent_ones_fill_up(view: KeywordView) -> None:
    found = view.question(f"{COMMON} {RARE}").search(10, None)
    assert len(found) == 10
    assert {50, 100, 150, 200} <= set(found)
    assert len(view.question(COMMON).search(10, None)) == 10


def test_coverage_and_share_count_every_term_asked(view: KeywordView) -> None:
    match = view.question(f"{COMMON} unheard").matches([2])[2]
    assert match.share == 0.5
    assert 0 < match.coverage < 0.5  # a term nobody has weighs more than one half of all have


@pytest.mark.parametrize("many", [0.0, 2.0], ids=["of all", "as a set"])
@pytest.mark.parametrize(("asked", "step"), [(COMMON, 3), (RARE, 2), (f"{RARE} {COMMON}", 5)])
def test_many_documents_are_searched_as_few_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: float, asked: str, step: int
) -> None:
    monkeypatch.setattr(keywords, "_MANY", many)
    index = KeywordIndex(tmp_path, "mine")
    texts = [f"{COMMON} " * (i % 7) + (RARE if i % 10 == 0 else "other") for i in range(1, 301)]
    index.catch_up([], [(i, i, "", text) for i, text in enumerate(texts, 1)], 1)
    view = index.view()
    allowed = np.arange(step, 301, step)
    found = view.question(asked).search(8, allowed, allowed)
    every = view.question(asked).matches(list(range(1, 301)))
    scores = sorted((m.bm25 for i, m in every.items() if i in set(allowed.tolist())), reverse=True)
    assert len(found) == 8
    assert set(found) <= set(allowed.tolist())
    assert [every[i].bm25 for i in found] == pytest.approx(scores[:8], abs=1e-4)


def test_where_all_that_match_are_left_out_nothing_is_found(
    view: KeywordView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keywords, "_MANY", 0.0)
    assert view.question(RARE).search(5, np.array([1]), np.array([1, 2, 3])) == []


def test_where_many_better_ones_are_left_out_the_set_is_asked_after_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keywords, "_MANY", 0.0)
    index = KeywordIndex(tmp_path, "mine")
    texts = [COMMON * 1 + " x" * (i // 10) for i in range(1, 501)]  # the longer the worse
    index.catch_up([], [(i, i, "", text) for i, text in enumerate(texts, 1)], 1)
    worst = np.arange(451, 501)
    assert len(index.view().question(COMMON).search(5, worst, worst)) == 5
    monkeypatch.setattr(keywords, "_WIDER", 1)
    assert len(index.view().question(COMMON).search(5, worst, worst)) == 5
