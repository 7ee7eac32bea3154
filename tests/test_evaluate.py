"""Metrics equal those computed by hand, and a gate that is missed is named."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from rag import evaluate
from rag.config import Settings
from rag.embed import Choice
from rag.engine import Engine
from rag.errors import ConfigError, InputError
from rag.evaluate import (
    Scores,
    evaluate_cases,
    evaluate_retrieval,
    evaluate_rgb,
    holds_answer,
    missed_gates,
    ranking_scores,
)
from tests.fakes import FakeEmbedder


def quiet(*_: object) -> None:
    return None


@pytest.fixture
def fake_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations that build an engine of their own get the fake embedder."""
    choice = Choice(FakeEmbedder(), "a fake, for tests")
    monkeypatch.setattr(evaluate, "Engine", lambda s: Engine(s, choose=lambda *_: choice))


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


# --- metrics --------------------------------------------------------------------------------------


def test_the_metrics_of_three_questions_equal_those_by_hand() -> None:
    rankings = [["a", "b", "c"], ["b", "c", "a"], ["x", "y"]]
    right = [frozenset("a"), frozenset("a"), frozenset("a")]
    assert ranking_scores(rankings, right) == pytest.approx(
        {
            "recall@1": 1 / 3,
            "recall@5": 2 / 3,
            "recall@10": 2 / 3,
            "mrr@10": (1 + 1 / 3) / 3,
            "ndcg@10": (1 + 1 / math.log2(4)) / 3,
        }
    )


def test_several_right_documents_share_the_recall() -> None:
    scores = ranking_scores([["a", "x", "b", "y"]], [frozenset("abc")])
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert scores == pytest.approx(
        {
            "recall@1": 1 / 3,
            "recall@5": 2 / 3,
            "recall@10": 2 / 3,
            "mrr@10": 1.0,
            "ndcg@10": (1 + 1 / math.log2(4)) / ideal,
        }
    )


def test_the_tenth_place_counts_and_the_eleventh_does_not() -> None:
    ranking = [str(n) for n in range(1, 12)]
    tenth = ranking_scores([ranking], [frozenset(["10"])])
    assert tenth["recall@10"] == 1
    assert tenth["mrr@10"] == pytest.approx(0.1)
    assert tenth["ndcg@10"] == pytest.approx(1 / math.log2(11))
    assert set(ranking_scores([ranking], [frozenset(["11"])]).values()) == {0.0}


def test_an_empty_ranking_scores_nothing() -> None:
    assert set(ranking_scores([[]], [frozenset("a")]).values()) == {0.0}
    assert set(ranking_scores([], []).values()) == {0.0}


@pytest.mark.parametrize(
    ("text", "groups", "right"),
    [
        ("It was in PARIS, 1998.", [["paris"], ["1998", "98年"]], True),
        ("It was in Paris.", [["paris"], ["1998"]], False),
        ("九八年", [["1998", "九八年"]], True),
        ("Paris", ["paris"], True),
        ("Paris", ["paris", "london"], False),
        ("anything", [], True),
    ],
)
def test_an_answer_is_right_when_every_group_has_a_spelling_in_it(
    text: str, groups: list[list[str] | str], right: bool
) -> None:
    assert holds_answer(text, groups) == right


# --- the mixing rules of RGB ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "positive", "negative", "mixed"),
    [
        (0.0, 9, 9, (5, 0)),
        (0.2, 9, 9, (4, 1)),
        (0.4, 9, 9, (3, 2)),
        (0.8, 9, 9, (1, 4)),
        (1.0, 9, 9, (0, 5)),
        (0.4, 1, 9, (1, 4)),  # the other list fills up
        (0.8, 9, 1, (4, 1)),
        (0.4, 1, 1, (1, 1)),
        (0.4, 0, 9, (0, 5)),
    ],
)
def test_documents_are_mixed_by_the_noise_and_a_short_list_is_filled_up(
    noise: float, positive: int, negative: int, mixed: tuple[int, int]
) -> None:
    row = {
        "positive": [f"p{n}" for n in range(positive)],
        "negative": [f"n{n}" for n in range(negative)],
    }
    texts = evaluate._mixed(row, noise)
    assert (sum(t[0] == "p" for t in texts), sum(t[0] == "n" for t in texts)) == mixed
    assert len(set(texts)) == len(texts)


def test_documents_for_the_refusal_hold_no_spelling_of_the_answer() -> None:
    row = {
        "answers": [["Paris", "巴黎"]],
        "negative": ["in PARIS", "巴黎市", *(f"n{n}" for n in range(7))],
    }
    assert evaluate._without_answer(row) == ["n0", "n1", "n2", "n3", "n4"]


def test_rgb_counts_right_answers_and_refusals(
    fake_engines: None, settings: Settings, tmp_path: Path
) -> None:
    facts = ["The river Loam is 812 km long.", "The tower of Mirn was built in 1877."]
    noise = [f"Nothing of interest happened on day {'abcdefg'[n]}." for n in range(7)]
    rows = [
        {
            "id": 1,
            "query": "how long is the river Loam",
            "answers": [["812"]],
            "positive": facts[:1] * 3,
            "negative": noise,
        },
        {
            "id": 2,
            "query": "when was the tower of Mirn built",
            "answers": [["1999"]],
            "positive": facts[1:] * 3,
            "negative": noise,
        },
    ]
    steps: list[tuple[int, int]] = []
    scores = evaluate_rgb(
        settings,
        lines(tmp_path / "rgb.jsonl", *rows),
        noise=0.4,
        on_ingest=quiet,
        on_step=lambda _, done, of: steps.append((done, of)),
    )
    assert scores.questions == 2
    assert scores.rows == {
        "rgb noise 0.4": {"accuracy": 0.5, "wrong_refusal_rate": 0.0, "refusal_rate": 0.0}
    }
    assert steps == [(1, 2), (2, 2)]


# --- retrieval and cases --------------------------------------------------------------------------

CORPUS = [
    {"id": "d1", "title": "年假", "text": "员工每年有十五天年假。"},
    {"id": "d2", "title": "Hotels", "text": "Hotels cost up to 800 CNY a night."},
    {"id": "d3", "title": "Meals", "text": "Meals cost up to 120 CNY a day."},
]
QUERIES = [
    {"id": "q1", "question": "每年有几天年假？", "answers": ["十五天"], "doc_id": "d1"},
    {"id": "q2", "question": "what do hotels cost", "answers": ["800"], "doc_id": ["d2"]},
]


def test_retrieval_is_scored_for_each_leg_and_the_run_is_written(
    fake_engines: None, settings: Settings, tmp_path: Path
) -> None:
    run = tmp_path / "run.jsonl"
    scores = evaluate_retrieval(
        settings,
        lines(tmp_path / "c.jsonl", *CORPUS),
        lines(tmp_path / "q.jsonl", *QUERIES),
        run_out=run,
        on_ingest=quiet,
        on_step=quiet,
    )
    assert set(scores.rows) == {"dense", "keyword", "hybrid"}
    assert scores.rows["hybrid"]["recall@1"] == 1.0
    written = [json.loads(line) for line in run.read_text().splitlines()]
    assert [row["query_id"] for row in written] == ["q1", "q2"]
    assert [row["ranked_doc_ids"][0] for row in written] == ["d1", "d2"]
    assert all(len(set(row["ranked_doc_ids"])) == len(row["ranked_doc_ids"]) for row in written)
    assert not settings.indexes.exists()


def test_cases_tell_answered_cited_quoted_and_refused(
    engine: Engine, folder: Callable[..., Path], tmp_path: Path
) -> None:
    engine.ingest([folder(**{"leave.md": CORPUS[0]["text"], "hotels.md": CORPUS[1]["text"]})])
    cases = [
        {"id": 1, "question": "每年有几天年假？", "document": "leave.md", "answers": ["十 五天"]},
        {"id": 2, "question": "hotels cost a night?", "document": "leave.md", "answers": ["800"]},
        {"id": 3, "question": "每年有几天年假？", "unanswerable": True},
    ]
    scores = evaluate_cases(
        engine, lines(tmp_path / "cases.jsonl", *cases), knowledge_base="default", on_step=quiet
    )
    assert scores.questions == 3
    answers = scores.rows["answers"]
    assert answers["answered"] == 1.0
    assert answers["cited"] == answers["quoted"] == 0.5
    assert answers["wrong_refusal_rate"] == answers["refusal_rate"] == 0.0
    assert scores.rows["hybrid"]["mrr@10"] == pytest.approx((1 + 1 / 2) / 2)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"id": 1}\n', "line 1 has no question"),
        ('{"id": 1, "question": "q"}\n', "case 1 has no document, answers"),
        ('{"id": 1, "question": "q", "unanswerable": true}\n\nnot json\n', "line 3 is not JSON"),
        ("[1, 2]\n", "line 1 has no id, question"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_line(
    engine: Engine, tmp_path: Path, content: str | None, told: str
) -> None:
    path = tmp_path / "cases.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=told):
        evaluate_cases(engine, path, knowledge_base="default", on_step=quiet)


# --- gates ----------------------------------------------------------------------------------------

SCORES = Scores(2, {"dense": {"mrr@10": 0.5}, "hybrid": {"mrr@10": 0.9, "recall@1": 0.8}})


def test_a_gate_that_is_reached_is_silent_and_one_that_is_missed_is_named() -> None:
    assert missed_gates(SCORES, ["mrr@10=0.9", "recall@1=0.5"]) == []
    (line,) = missed_gates(SCORES, ["mrr@10=0.95", "recall@1=0.8"])
    assert "mrr@10" in line
    assert "0.9000" in line
    assert "0.95" in line


def test_a_gate_may_be_an_upper_bound() -> None:
    assert missed_gates(SCORES, ["mrr@10<=0.95"]) == []
    (line,) = missed_gates(SCORES, ["mrr@10<=0.5"])
    assert "above 0.5" in line


@pytest.mark.parametrize("gate", ["mrr@10", "mrr@10=high", "recall@3=0.5", "=0.5"])
def test_a_gate_that_says_nothing_is_an_error(gate: str) -> None:
    with pytest.raises(ConfigError):
        missed_gates(SCORES, [gate])
