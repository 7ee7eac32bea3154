"""The keyword leg: a tantivy index derived from the texts in the database.

The index notes the generation it holds in a document of its own, so that text and note change in
one commit. BM25 is as tantivy computes it (k1 1.2, b 0.75, Lucene's idf).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rag.text import TERMS_VERSION, is_telling, question_terms, terms

if TYPE_CHECKING:
    import tantivy

_NOTE = 0  # the chunk id of the document that notes the generation; real ids start at 1
_HEAP = 64_000_000
_MAX_QUESTION_TERMS = 256


@dataclass(frozen=True, slots=True)
class Match:
    """How one chunk matches a question's terms.

    `bm25` is at least 0. `coverage` is the share of the terms' idf that the chunk holds and `share`
    the share of the terms themselves, both 0..1; terms no chunk holds count in both.
    """

    bm25: float
    coverage: float
    share: float


@dataclass(frozen=True, slots=True)
class KeywordView:
    """The index as it was at one generation. Immutable."""

    schema: tantivy.Schema
    searcher: tantivy.Searcher
    generation: int

    def question(self, text: str) -> Question:
        chunks = max(self.searcher.num_docs - 1, 0)
        weights: dict[str, float] = {}
        for term in question_terms(text)[:_MAX_QUESTION_TERMS]:
            frequency = self.searcher.doc_freq("terms", term)
            weights[term] = math.log(1 + (chunks - frequency + 0.5) / (frequency + 0.5))
        return Question(self, weights)


class Question:
    """One question's terms against one view."""

    def __init__(self, view: KeywordView, weights: dict[str, float]) -> None:
        import tantivy

        self._view = view
        self._tantivy = tantivy
        self._weights = weights
        self._telling = any(map(is_telling, weights))

    def search(self, limit: int, document_keys: Sequence[int] | None) -> list[int]:
        """The ids of the best `limit` chunks by BM25, of those documents only, if given."""
        if not self._weights:
            return []
        query = self._any_term(lambda query, _: query)
        if document_keys is not None:
            query = self._within("document", document_keys, query)
        return list(self._run(query, limit))

    def matches(self, chunk_ids: Sequence[int]) -> dict[int, Match]:
        """How these chunks match; one without any of the terms is left out.

        A question of nothing but function words has a share of 0 with every chunk.
        """
        if not chunk_ids or not self._weights:
            return {}
        constant = self._tantivy.Query.const_score_query

        def scored(weigh: Callable[[tantivy.Query, float], tantivy.Query]) -> dict[int, float]:
            query = self._within("id", chunk_ids, self._any_term(weigh))
            return self._run(query, len(chunk_ids))

        bm25 = scored(lambda query, _: query)
        held = scored(constant)
        count = scored(lambda query, _: constant(query, 1.0))
        total = sum(self._weights.values()) or 1.0
        terms_asked = len(self._weights) if self._telling else math.inf
        return {
            i: Match(score, min(held.get(i, 0.0) / total, 1.0), count.get(i, 0.0) / terms_asked)
            for i, score in bm25.items()
        }

    def _any_term(self, weigh: Callable[[tantivy.Query, float], tantivy.Query]) -> tantivy.Query:
        Query, Occur = self._tantivy.Query, self._tantivy.Occur
        schema = self._view.schema
        return Query.boolean_query(
            [
                (
                    Occur.Should,
                    weigh(Query.term_query(schema, "terms", term, index_option="freq"), weight),
                )
                for term, weight in self._weights.items()
            ]
        )

    def _within(self, field: str, values: Sequence[int], query: tantivy.Query) -> tantivy.Query:
        Query, Occur = self._tantivy.Query, self._tantivy.Occur
        chosen = Query.term_set_query(self._view.schema, field, list(values))
        return Query.boolean_query(
            [(Occur.Must, Query.const_score_query(chosen, 0.0)), (Occur.Must, query)]
        )

    def _run(self, query: tantivy.Query, limit: int) -> dict[int, float]:
        searcher = self._view.searcher
        hits = searcher.search(query, limit, count=False).hits
        ids = searcher.fast_field_values("id", [address for _, address in hits])
        return {int(i): float(score) for (score, _), i in zip(hits, ids, strict=True)}  # type: ignore[arg-type]


class KeywordIndex:
    """The files of the index, and the one place that writes them. Writers hold the store's lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / f"keywords-{TERMS_VERSION}"
        self._index = self._open()

    def _open(self) -> tantivy.Index:
        import tantivy

        self._folder.mkdir(parents=True, exist_ok=True)
        schema = (
            tantivy.SchemaBuilder()
            .add_unsigned_field("id", indexed=True, fast=True)
            .add_unsigned_field("document", indexed=True)
            .add_unsigned_field("generation", fast=True)
            .add_text_field("terms", tokenizer_name="whitespace", index_option="freq")
            .build()
        )
        try:
            return tantivy.Index(schema, path=str(self._folder))
        except (ValueError, OSError):  # damaged, and only a cache
            self._clear()
            return tantivy.Index(schema, path=str(self._folder))

    def _clear(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)

    def view(self) -> KeywordView:
        self._index.reload()
        searcher = self._index.searcher()
        return KeywordView(self._index.schema, searcher, self._generation(searcher))

    def _generation(self, searcher: tantivy.Searcher) -> int:
        import tantivy

        note = tantivy.Query.term_query(self._index.schema, "id", _NOTE)
        try:
            hits = searcher.search(note, 1, count=False).hits
            values = searcher.fast_field_values("generation", [address for _, address in hits])
        except (ValueError, OSError):  # a file of the index is damaged or gone
            return -1
        return int(values[0]) if values and values[0] is not None else 0

    def catch_up(
        self,
        removed: Iterable[int],
        added: Iterable[tuple[int, int, str, str]],
        generation: int,
    ) -> None:
        """Takes out chunk ids, puts in (id, document key, context, text), notes the generation."""
        import tantivy

        writer = self._index.writer(_HEAP, 1)
        # By query: deletion by term takes the number for a signed one and finds nothing.
        outdated = tantivy.Query.term_set_query(self._index.schema, "id", [*removed, _NOTE])
        writer.delete_documents_by_query(outdated)
        for chunk_id, document_key, context, text in added:
            document = tantivy.Document()
            document.add_unsigned("id", chunk_id)
            document.add_unsigned("document", document_key)
            document.add_text("terms", " ".join(terms(f"{context}\n{text}")))
            writer.add_document(document)
        note = tantivy.Document()
        note.add_unsigned("id", _NOTE)
        note.add_unsigned("generation", generation)
        writer.add_document(note)
        writer.commit()
        writer.wait_merging_threads()

    def start_anew(self) -> None:
        self._clear()
        self._index = self._open()
