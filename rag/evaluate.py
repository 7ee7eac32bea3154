"""Cases -> scores, and a gate that CI can use. The metrics are those of information retrieval:

recall@k   share of questions with a right document among the first k distinct documents
mrr@10     mean of 1/rank of the first right document, 0 where it is not among the first 10
ndcg@10    sum of 1/log2(rank + 1) over right documents in the first 10, over the best possible sum
"""

from __future__ import annotations

import asyncio
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag.config import Settings
from rag.engine import Engine
from rag.errors import ConfigError, InputError, RagError
from rag.ingest import Plan, Progress
from rag.retrieve import Retriever
from rag.types import Answer, Candidate, Content, Element, Failed, Filters, Finished

OnIngest = Callable[[Progress], None]
OnStep = Callable[[str, int, int], None]

_CUTOFFS = (1, 5, 10)
_RANKED = 10
_RGB_DOCUMENTS = 5
_WHOLE = "hybrid"


@dataclass(frozen=True, slots=True)
class Scores:
    """`rows` are measured things (a leg, a task), each with its metrics; `questions` how many."""

    questions: int
    rows: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class _TextSource:
    """A document that is not a file: one row of a corpus."""

    uri: str
    name: str
    title: str
    text: str

    def read(self) -> bytes:
        return f"{self.title}\n{self.text}".encode()

    def load(self, _data: bytes) -> Content:
        whole = Element("text", 0, len(self.text))
        return Content(type="txt", title=self.title, text=self.text, elements=(whole,))


# --- retrieval ----------------------------------------------------------------------------------


def evaluate_retrieval(
    settings: Settings,
    corpus: Path,
    queries: Path,
    *,
    run_out: Path | None = None,
    limit: int | None = None,
    on_ingest: OnIngest,
    on_step: OnStep,
) -> Scores:
    """Ingests the corpus into a temporary place and ranks its documents for each query.

    A document's place is that of its best chunk. `dense` and `keyword` are the two legs alone.
    """
    asked = _read_rows(queries, ("id", "question", "doc_id"))[:limit]
    sources = [
        _TextSource(str(r["id"]), str(r["id"]), str(r.get("title", "")), str(r["text"]))
        for r in _read_rows(corpus, ("id", "text"))
    ]
    with _temporary(settings) as engine:
        engine.ingest_plan(Plan(sources), on_progress=on_ingest)
        retriever = engine.knowledge_base().retriever
        rankings: dict[str, list[list[str]]] = {"dense": [], "keyword": [], _WHOLE: []}
        for done, row in enumerate(asked, 1):
            for leg, ranking in _rankings(retriever, str(row["question"])).items():
                rankings[leg].append(ranking)
            on_step("questions", done, len(asked))
    if run_out is not None:
        _write_run(run_out, asked, rankings[_WHOLE])
    right = [_right_documents(row) for row in asked]
    return Scores(len(asked), {leg: ranking_scores(r, right) for leg, r in rankings.items()})


def _rankings(retriever: Retriever, question: str) -> dict[str, list[str]]:
    scored = retriever.candidates(question)
    names = retriever.names([c.chunk_id for _, c in scored])
    legs: dict[str, list[tuple[float, Candidate]]] = {
        "dense": [(c.dense, c) for _, c in scored],
        "keyword": [(c.keyword, c) for _, c in scored if c.keyword > 0],
        _WHOLE: scored,
    }
    return {
        leg: list(
            dict.fromkeys(
                names[c.chunk_id]
                for _, c in sorted(pairs, key=lambda p: (-p[0], p[1].chunk_id))
                if c.chunk_id in names
            )
        )[:_RANKED]
        for leg, pairs in legs.items()
    }


def ranking_scores(
    rankings: Sequence[Sequence[str]], right: Sequence[frozenset[str]]
) -> dict[str, float]:
    """Means over the questions; each ranking lists distinct documents, best first."""
    count = max(len(right), 1)
    sums: dict[str, float] = dict.fromkeys(
        (*(f"recall@{k}" for k in _CUTOFFS), "mrr@10", "ndcg@10"), 0.0
    )
    for ranking, wanted in zip(rankings, right, strict=True):
        places = [p for p, name in enumerate(ranking[:_RANKED], 1) if name in wanted]
        for k in _CUTOFFS:
            sums[f"recall@{k}"] += sum(p <= k for p in places) / len(wanted)
        sums["mrr@10"] += 1 / places[0] if places else 0.0
        best = sum(1 / math.log2(p + 1) for p in range(1, min(len(wanted), _RANKED) + 1))
        sums["ndcg@10"] += sum(1 / math.log2(p + 1) for p in places) / best
    return {name: total / count for name, total in sums.items()}


def _right_documents(row: Mapping[str, Any]) -> frozenset[str]:
    value = row["doc_id"]
    return frozenset(map(str, value if isinstance(value, list) else [value]))


def _write_run(path: Path, asked: Sequence[Mapping[str, Any]], runs: Sequence[list[str]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row, ranking in zip(asked, runs, strict=True):
            line = {"query_id": row["id"], "ranked_doc_ids": ranking}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


# --- answers from given documents (the RGB benchmark) --------------------------------------------


def evaluate_rgb(
    settings: Settings,
    rows_file: Path,
    *,
    noise: float,
    limit: int | None = None,
    on_ingest: OnIngest,
    on_step: OnStep,
) -> Scores:
    """Answers each row from five documents, `noise` of them off the mark; and once more from five
    that hold no answer, where declining is right."""
    rows = _read_rows(rows_file, ("id", "query", "answers", "positive", "negative"))[:limit]
    sources: list[_TextSource] = []
    for row in rows:
        for task, texts in (("noise", _mixed(row, noise)), ("none", _without_answer(row))):
            sources += [
                _TextSource(f"{row['id']}/{task}/{n}", f"{row['id']}/{task}/{n}", "", text)
                for n, text in enumerate(texts)
            ]
    right = refused = declined = negative = 0
    with _temporary(settings) as engine, asyncio.Runner() as runner:
        engine.ingest_plan(Plan(sources), on_progress=on_ingest)
        for done, row in enumerate(rows, 1):
            answer = runner.run(_answered(engine, row["query"], f"{row['id']}/noise/*"))
            right += holds_answer(answer.text, row["answers"])
            refused += answer.refused
            if len(_without_answer(row)) == _RGB_DOCUMENTS:
                negative += 1
                empty = runner.run(_answered(engine, row["query"], f"{row['id']}/none/*"))
                declined += empty.refused
            on_step("questions", done, len(rows))
    count = max(len(rows), 1)
    return Scores(
        len(rows),
        {
            f"rgb noise {noise:g}": {
                "accuracy": right / count,
                "wrong_refusal_rate": refused / count,
                "refusal_rate": declined / max(negative, 1),
            }
        },
    )


def _mixed(row: Mapping[str, Any], noise: float) -> list[str]:
    """round(5 x noise) negatives, the rest positives; where one list is short the other fills."""
    negatives = round(_RGB_DOCUMENTS * noise)
    positives = _RGB_DOCUMENTS - negatives
    positives = max(positives, _RGB_DOCUMENTS - len(row["negative"]))
    chosen = [*row["positive"][:positives]]
    chosen += row["negative"][: _RGB_DOCUMENTS - len(chosen)]
    return chosen


def _without_answer(row: Mapping[str, Any]) -> list[str]:
    spellings = [s.lower() for group in row["answers"] for s in group]
    clean = [t for t in row["negative"] if not any(s in t.lower() for s in spellings)]
    return clean[:_RGB_DOCUMENTS]


def holds_answer(text: str, groups: Sequence[Sequence[str] | str]) -> bool:
    """In lower case, every group has at least one of its spellings in the text."""
    lower = text.lower()
    return all(
        any(s.lower() in lower for s in ([group] if isinstance(group, str) else group))
        for group in groups
    )


# --- cases about a knowledge base ----------------------------------------------------------------


def evaluate_cases(
    engine: Engine,
    cases_file: Path,
    *,
    knowledge_base: str,
    limit: int | None = None,
    on_step: OnStep,
) -> Scores:
    """Asks every case: {id, question, document, answers} or {id, question, unanswerable: true}.

    `answered`: the answer holds a spelling of what was expected. `cited`: a citation is of the
    right document. `quoted`: a quote of it holds the expected spelling.
    """
    cases = _read_rows(cases_file, ("id", "question"))[:limit]
    answerable = [c for c in cases if not c.get("unanswerable")]
    for case in answerable:
        if missing := [key for key in ("document", "answers") if key not in case]:
            raise InputError(
                f"{cases_file}, case {case['id']} has no {', '.join(missing)}.",
                'A case that has no answer says "unanswerable": true.',
            )
    base = engine.knowledge_base(knowledge_base)
    rankings = [_rankings(base.retriever, c["question"])[_WHOLE] for c in answerable]
    sums = dict.fromkeys(("answered", "cited", "quoted", "wrong_refusal_rate"), 0)
    declined = 0
    with asyncio.Runner() as runner:
        for done, case in enumerate(cases, 1):
            answer = runner.run(_answered(engine, case["question"], None, knowledge_base))
            if case.get("unanswerable"):
                declined += answer.refused
            else:
                _count(sums, case, answer)
            on_step("cases", done, len(cases))
    count = max(len(answerable), 1)
    unanswerable = len(cases) - len(answerable)
    right = [frozenset([str(c["document"])]) for c in answerable]
    return Scores(
        len(cases),
        {
            _WHOLE: ranking_scores(rankings, right),
            "answers": {name: total / count for name, total in sums.items()}
            | {"refusal_rate": declined / max(unanswerable, 1)},
        },
    )


def _count(sums: dict[str, int], case: Mapping[str, Any], answer: Answer) -> None:
    quotes = [c.quote for c in answer.citations if c.document == case["document"]]
    expected = [_bare(a) for a in case["answers"]]
    sums["answered"] += any(a in _bare(answer.text) for a in expected)
    sums["cited"] += bool(quotes)
    sums["quoted"] += any(a in _bare(q) for a in expected for q in quotes)
    sums["wrong_refusal_rate"] += answer.refused


def _bare(text: str) -> str:
    return "".join(text.lower().split())


# --- shared --------------------------------------------------------------------------------------


async def _answered(
    engine: Engine, question: str, path: str | None, knowledge_base: str = "default"
) -> Answer:
    filters = Filters(paths=(path,) if path else ())
    async for event in engine.ask(
        question, knowledge_base=knowledge_base, filters=filters, stream=False
    ):
        if isinstance(event, Finished):
            return event.answer
        if isinstance(event, Failed):
            raise RagError(event.message, event.hint)
    raise RagError("The answer ended without a result.")


@contextmanager
def _temporary(settings: Settings) -> Iterator[Engine]:
    with tempfile.TemporaryDirectory(prefix="rag-eval-") as folder:
        engine = Engine(settings.model_copy(update={"indexes": Path(folder)}))
        with closing(engine):
            yield engine


def _read_rows(path: Path, needed: Sequence[str]) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from None
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            raise InputError(f"{path}, line {number} is not JSON.") from None
        missing = [key for key in needed if not isinstance(row, dict) or key not in row]
        if missing:
            raise InputError(f"{path}, line {number} has no {', '.join(missing)}.")
        rows.append(row)
    return rows


def missed_gates(scores: Scores, gates: Sequence[str]) -> list[str]:
    """A line for each gate that is missed, by the last row with the metric.

    `metric=0.9` is the least it may be, `metric<=0.1` the most.
    """
    values = {name: value for row in scores.rows.values() for name, value in row.items()}
    missed = []
    for gate in gates:
        most = "<=" in gate
        name, _, number = gate.partition("<=" if most else "=")
        try:
            limit = float(number)
        except ValueError:
            raise ConfigError(
                f"A gate is written METRIC=LEAST or METRIC<=MOST, not {gate!r}."
            ) from None
        if name not in values:
            raise ConfigError(f"There is no metric {name!r}; there are: {', '.join(values)}.")
        value = values[name]
        if value > limit if most else value < limit:
            side = "above" if most else "below"
            missed.append(f"{name} is {value:.4f}, {side} {limit:g}")
    return missed
