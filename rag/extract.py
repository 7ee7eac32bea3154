"""Answers without a model: the sentences of the hits that come closest to the question, quoted."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rag.text import question_terms, sentences, terms
from rag.types import Chunk, Embedder, Hit

# Weights for a model whose unrelated texts score 0.79; they grow with the range left above.
_COVERAGE_WEIGHT = 0.05
_NUMBER_WEIGHT = 0.02
_MEASURED_RANGE = 0.2
_HIT_WEIGHT = 0.5

_MAX_SENTENCES = 3
_MAX_SCORED = 80
_WITHIN = 0.025  # how far below the best sentence another may be, in the same range

_CELL = " | "
_NUMBER = re.compile(r"\d+")
_ASKS_NUMBER = re.compile(
    r"多少|几|何时|时间|什么时候|日期|哪一?[天年日]|多[大长高久远]"
    r"|\b(when|how (many|much|old|long|far|tall|high|big|large)|what (year|time|date|day)"
    r"|population|year)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Extract:
    """A sentence of source [n]: `start` and `end` count in its document."""

    n: int
    start: int
    end: int
    score: float


class Extractor:
    """Chooses sentences by four signs: the sentence's cosine with the question, its passage's, the
    idf of the question's terms it holds, and a number where one is asked for.

    `spread` is 1 less the cosine of unrelated texts.
    """

    def __init__(self, embedder: Embedder, *, spread: float = _MEASURED_RANGE) -> None:
        self._embedder = embedder
        self._scale = spread / _MEASURED_RANGE

    def best(self, question: str, hits: Sequence[Hit]) -> list[Extract]:
        """One to three sentences, best first; empty only if the hits hold no text."""
        places = [
            (n, hit, start, end)
            for n, hit in enumerate(hits, 1)
            for start, end in sentences(hit.chunk.text)
        ][:_MAX_SCORED]
        if not places:
            return []
        texts = [in_context(hit.chunk, hit.chunk.text[start:end]) for _, hit, start, end in places]
        vector = self._embedder.embed_query(question)
        cosines = self._embedder.embed_documents(texts) @ vector
        signs = _signs(question, texts)
        scored = [
            Extract(
                n,
                hit.chunk.start + start,
                hit.chunk.start + end,
                float(cosine) + _HIT_WEIGHT * hit.dense + self._scale * sign,
            )
            for (n, hit, start, end), cosine, sign in zip(places, cosines, signs, strict=True)
        ]
        scored.sort(key=lambda e: -e.score)
        least = scored[0].score - _WITHIN * self._scale
        return [e for e in scored[:_MAX_SENTENCES] if e.score >= least]


def in_context(chunk: Chunk, sentence: str) -> str:
    """The sentence below its headings and, if it is a row of a table, below the table's header."""
    path = chunk.context.split("\n")[0]
    header = row_header(chunk, sentence)
    return "\n".join(part for part in (path, header, sentence) if part)


def row_header(chunk: Chunk, sentence: str) -> str:
    """The header of the table whose row this is; empty if it is none, or the header itself."""
    outside = chunk.context.partition("\n")[2]
    if outside:
        is_row = _CELL in sentence or _CELL not in outside  # text below a table is none
        return outside if is_row else ""
    first = chunk.text.partition("\n")[0]
    columns = sentence.count(_CELL)
    return first if columns and first.count(_CELL) == columns and first != sentence else ""


def _signs(question: str, texts: Sequence[str]) -> list[float]:
    """What the words say of each sentence, for a spread of 0.2."""
    asked = question_terms(question)
    held = [set(terms(text)).intersection(asked) for text in texts]
    found = Counter(term for h in held for term in h)
    weights = {t: math.log(1 + (len(texts) - found[t] + 0.5) / (found[t] + 0.5)) for t in asked}
    total = sum(weights.values()) or 1.0
    numbers = set(_NUMBER.findall(question))
    wants_number = bool(_ASKS_NUMBER.search(question))
    return [
        _COVERAGE_WEIGHT * sum(weights[t] for t in h) / total
        + _NUMBER_WEIGHT * (wants_number and bool(set(_NUMBER.findall(text)) - numbers))
        for h, text in zip(held, texts, strict=True)
    ]
