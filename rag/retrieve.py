"""Question -> Hits: both legs' candidates, fused by score."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from rag.calibrate import Calibration
from rag.errors import FingerprintError
from rag.text import Language, language, question_terms
from rag.types import Candidate, Chunk, ChunkStore, Embedder, Filters, Hit, Message

if TYPE_CHECKING:
    from rag.types import Vector

_TRIES = 3
_SPARE = 3  # hits fetched at first for each wanted, because equal texts count once

# Measured on 1,998 Chinese and 532 English questions (benchmarks/README.md): the best weight lies
# between 0.002 and 0.004 for a model whose unrelated texts score 0.79, and grows with the range
# that is left above.
_KEYWORD_WEIGHT = 0.015
# Across languages no terms match, so that the cosine has to do alone.
_ACROSS_LANGUAGES = 1.5


class Retrieves(Protocol):
    """What answers are made from; see `Retriever.retrieve`."""

    def retrieve(
        self,
        question: str,
        *,
        top_k: int,
        filters: Filters = Filters(),
        history: Sequence[Message] = (),
        threshold: float | None = None,
    ) -> list[Hit]: ...


class Retriever:
    """Finds the best passages of one knowledge base for a question."""

    def __init__(
        self,
        store: ChunkStore,
        embedder: Embedder,
        calibration: Calibration,
        *,
        candidates: int,
        threshold: float,
    ) -> None:
        self._store = store
        self._calibration = calibration
        self._weight = _KEYWORD_WEIGHT * (1 - calibration.floor)
        self._embedder = embedder
        self._candidates = candidates
        self._threshold = threshold

    def retrieve(
        self,
        question: str,
        *,
        top_k: int,
        filters: Filters = Filters(),
        history: Sequence[Message] = (),
        threshold: float | None = None,
    ) -> list[Hit]:
        """The best `top_k` hits, no text twice; none at all if the best is below the threshold.

        Weaker hits stay beside a good first one: the reader, or the model, can weigh them.
        """
        least = self._threshold if threshold is None else threshold
        query = with_topic(question, history)
        vector = self._embedder.embed_query(query)
        confidence = _Confidence(query, self._calibration.floors(vector))
        for _ in range(_TRIES):
            ranked = self._ranked(query, vector, max(self._candidates, top_k), filters)
            found, whole = self._distinct([c for _, c in ranked], top_k, confidence)
            if whole:
                break
            # An ingest replaced chunks between the two steps: look again at what it published.
            self._store.refresh()
        return found if found and found[0].score >= least else []

    def _distinct(
        self, ranked: Sequence[Candidate], top_k: int, confidence: _Confidence
    ) -> tuple[list[Hit], bool]:
        """The first hits of different texts, and whether all chunks looked at were still there."""
        hits: dict[str, Hit] = {}
        whole = True
        first = top_k * _SPARE
        for part in (ranked[:first], ranked[first:]):
            if len(hits) >= top_k or not part:
                break
            rows = self._store.fetch([candidate.chunk_id for candidate in part])
            whole = whole and len(rows) == len(part)
            for candidate in part:
                if len(hits) < top_k and candidate.chunk_id in rows:
                    hit = confidence.hit(candidate, *rows[candidate.chunk_id])
                    hits.setdefault(hit.chunk.text, hit)
        return list(hits.values()), whole

    def _check_model(self) -> None:
        """What was found with vectors of another model is worth nothing."""
        held, ours = self._store.fingerprint, self._embedder.fingerprint
        if held not in (None, ours):
            raise FingerprintError(
                f"The knowledge base has just moved from {ours.model} to {held.model}.",
                "Ask again.",
            )

    def candidates(self, question: str) -> list[tuple[float, Candidate]]:
        """All candidates of both legs with their fused scores, best first, unfiltered."""
        vector = self._embedder.embed_query(question)
        return self._ranked(question, vector, self._candidates, Filters())

    def names(self, chunk_ids: Sequence[int]) -> dict[int, str]:
        """The document's name for each chunk."""
        return {i: name for i, (_, name, _) in self._store.fetch(chunk_ids).items()}

    def _ranked(
        self, query: str, vector: Vector, limit: int, filters: Filters
    ) -> list[tuple[float, Candidate]]:
        self._check_model()
        found = self._store.search(query, vector, limit=limit, filters=filters)
        self._check_model()  # it may have moved in between
        scored = [(fused(candidate, self._weight), candidate) for candidate in found]
        return sorted(scored, key=lambda s: (-s[0], s[1].chunk_id))


def fused(candidate: Candidate, weight: float) -> float:
    """Cosine + weight x BM25 x coverage: what the ranking goes by.

    BM25 is not divided by its upper bound, because a long question that matches is stronger
    evidence than a short one; coverage discounts chunks that hold only the common half of one.
    """
    return candidate.dense + weight * candidate.keyword * candidate.coverage


class _Confidence:
    """How sure we are that a chunk is about the question: 0..1, whatever the corpus and the model.

    (2 x relatedness + share) / 3, where relatedness is the cosine above that of unrelated passages
    and share that of the question's terms the chunk holds.
    """

    def __init__(self, question: str, floors: Mapping[Language, float]) -> None:
        self._language = language(question)
        self._floors = floors

    def hit(self, candidate: Candidate, chunk: Chunk, document: str, title: str) -> Hit:
        return Hit(
            chunk=chunk,
            document=document,
            title=title,
            score=self._score(candidate, language(chunk.text)),
            dense=candidate.dense,
            keyword=candidate.keyword,
            via=candidate.via,
        )

    def _score(self, candidate: Candidate, tongue: Language) -> float:
        floor = self._floors[tongue]
        related = (candidate.dense - floor) / (1 - floor)
        score = (2 * related + candidate.share) / 3
        if tongue != self._language:
            score = max(score, _ACROSS_LANGUAGES * related)
        return min(max(score, 0.0), 1.0)


_REFERS_BACK = re.compile(
    r"^(那么?|还有|另外|如果|这|它|他|她|上述|其中|为什么|怎么)"
    r"|它|这个|那个|这些|那些|上面|前面|刚才|该"
    r"|^(and|what about|how about|why|then|so)\b"
    r"|\b(it|its|they|them|their|that|those|this|these)\b",
    re.IGNORECASE,
)
_SHORT = {"zh": 4, "en": 2}  # terms that tell something


def with_topic(question: str, history: Sequence[Message]) -> str:
    """The question, with the one before it if it cannot be understood alone."""
    asked = [m.text for m in history if m.role == "user"]
    if not asked:
        return question
    short = len(question_terms(question)) <= _SHORT[language(question)]
    if short or _REFERS_BACK.search(question):
        return f"{asked[-1]}\n{question}"
    return question
