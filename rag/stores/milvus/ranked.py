"""The keyword leg where Milvus ranks by BM25 itself: nothing is kept on this machine.

Milvus tells scores, not how rare a term is. That is derived: each term is asked for alone, and of
the best hit, whose terms we read, the score is divided by what BM25 makes of the term's count and
of the chunk's length there. It is asked once for a term and generation.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rag.stores.indexes.keywords import Match
from rag.stores.milvus.fields import highest_idf, saturation
from rag.stores.milvus.records import Records, State
from rag.stores.milvus.seen import best_seen
from rag.stores.milvus.vectors import Milvus
from rag.text import is_telling, question_terms

_MAX_QUESTION_TERMS = 256
_SAMPLE = 2000  # ids, of which those that are seen stand for all: an error of the average length
# hardly shows, for it changes the idf of all terms alike, and only their ratio counts
_LENGTHS = 300
_MOST_KEPT = 100_000  # terms


@dataclass(frozen=True, slots=True)
class RankedKeywords:
    """Keywords at one generation, as `rag.stores.indexes.keywords.KeywordView`."""

    milvus: Milvus
    records: Records
    collection: str
    state: State
    _idf: dict[str, float] = field(default_factory=dict)
    _average: list[float] = field(default_factory=list)

    @property
    def generation(self) -> int:
        return self.state.generation

    def question(self, text: str) -> RankedQuestion:
        return RankedQuestion(self, question_terms(text)[:_MAX_QUESTION_TERMS])

    def idf(self, wanted: Sequence[str]) -> Mapping[str, float]:
        known = {term: self._idf[term] for term in wanted if term in self._idf}
        unknown = [term for term in wanted if term not in known]
        if unknown:
            derived = self._derived(unknown)
            known |= derived
            if len(self._idf) < _MOST_KEPT:
                self._idf.update(derived)
        return known

    def _derived(self, unknown: Sequence[str]) -> Mapping[str, float]:
        average = self._average_length()
        best = self.milvus.ranked(
            self.collection, unknown, 1, "", self.state.guarantee, with_terms=True
        )
        none = highest_idf(self.records.counts(self.generation)[1])
        derived = dict.fromkeys(unknown, none)
        for term, hits in zip(unknown, best, strict=True):
            for hit in hits:
                held = hit.terms.split(" ")
                if term in held:
                    factor = saturation(held.count(term), len(held), average)
                    derived[term] = hit.score / factor
        return derived

    def _average_length(self) -> float:
        """Of chunks, in terms."""
        if not self._average:
            held = self.milvus.terms(self.collection, self._sample(), self.state.guarantee)
            lengths = [len(terms.split(" ")) for terms in held.values()]
            self._average.append(sum(lengths) / len(lengths) if lengths else 1.0)
        return self._average[0]

    def _sample(self) -> list[int]:
        import sqlalchemy as sa

        c = self.records.tables.chunks
        ends = sa.select(sa.func.min(c.c.id), sa.func.max(c.c.id))
        with self.records.part.reading() as connection:
            first, last = connection.execute(ends).one()
        ids = list(range(first, min(last + 1, first + _SAMPLE)))
        if last - first >= _SAMPLE:
            chance = random.Random(self.generation)  # noqa: S311 - nothing secret
            ids = chance.sample(range(first, last + 1), _SAMPLE)
        return sorted(self.records.seen(ids, self.generation))[:_LENGTHS]


class RankedQuestion:
    """One question's terms, as `rag.stores.indexes.keywords.Question`."""

    def __init__(self, view: RankedKeywords, terms: Sequence[str]) -> None:
        self._view = view
        self._terms = terms
        self._found: dict[int, float] = {}  # BM25 that is known already

    def search(self, limit: int, document_keys: Sequence[int] | None) -> list[int]:
        """The ids of the best `limit` chunks by BM25, of those documents only, if given."""
        if not self._terms:
            return []
        view = self._view
        self._found = best_seen(
            lambda condition, count: self._scores(count, condition),
            view.records,
            view.generation,
            limit,
            document_keys,
            hidden_documents=lambda: view.records.hidden(
                view.generation, view.state.mark, view.collection
            ),
        )
        return list(self._found)

    def matches(self, chunk_ids: Sequence[int]) -> dict[int, Match]:
        """How these chunks match; one without any of the terms is left out.

        A question of nothing but function words has a share of 0 with every chunk.
        """
        if not chunk_ids or not self._terms:
            return {}
        view = self._view
        idf = view.idf(self._terms)
        total = sum(idf.values())
        asked = len(idf) if any(map(is_telling, idf)) else float("inf")
        unscored = [i for i in chunk_ids if i not in self._found]
        bm25 = dict(self._found)
        if unscored:
            bm25 |= self._scores(len(unscored), f"id in {unscored}")
        matches = {}
        for i, text in view.milvus.terms(view.collection, chunk_ids, view.state.guarantee).items():
            terms = set(text.split(" "))
            held = [weight for term, weight in idf.items() if term in terms]
            if held:
                matches[i] = Match(bm25.get(i, 0.0), sum(held) / total, len(held) / asked)
        return matches

    def _scores(self, count: int, condition: str) -> dict[int, float]:
        view = self._view
        asked = [" ".join(self._terms)]
        (hits,) = view.milvus.ranked(
            view.collection, asked, count, condition, view.state.guarantee, with_terms=False
        )
        return {hit.chunk_id: hit.score for hit in hits if hit.score > 0}
