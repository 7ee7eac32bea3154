"""The keyword leg: a tantivy index derived from the texts in the database.

The index notes the generation it holds in a document of its own, so that text and note change in
one commit. BM25 as tantivy computes it (k1 1.2, b 0.75, Lucene's idf); scores are divided by the
most that any text could get for the question, the sum of idf x (k1 + 1) over its words.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rag.stores.words import WORDS_VERSION, words

if TYPE_CHECKING:
    import tantivy

_K1 = 1.2
_NOTE = 0  # the chunk id of the document that notes the generation; real ids start at 1
_HEAP = 64_000_000
_MAX_QUESTION_WORDS = 200


@dataclass(frozen=True, slots=True)
class KeywordView:
    """The index as it was at one generation. Immutable."""

    schema: tantivy.Schema
    searcher: tantivy.Searcher
    generation: int

    def question(self, text: str) -> Question:
        counted = max(self.searcher.num_docs - 1, 0)
        weights: dict[str, float] = {}
        for word in words(text)[:_MAX_QUESTION_WORDS]:
            if word not in weights:
                frequency = self.searcher.doc_freq("words", word)
                if frequency:
                    weights[word] = math.log(1 + (counted - frequency + 0.5) / (frequency + 0.5))
        return Question(self, weights)


class Question:
    """One question's words against one view. Scores are 0..1."""

    def __init__(self, view: KeywordView, weights: dict[str, float]) -> None:
        import tantivy

        self._view = view
        self._tantivy = tantivy
        self._bound = sum(weights.values()) * (_K1 + 1)
        self._query = tantivy.Query.boolean_query(
            [
                (
                    tantivy.Occur.Should,
                    tantivy.Query.term_query(view.schema, "words", word, index_option="freq"),
                )
                for word in weights
            ]
        )

    def search(self, limit: int, document_keys: Sequence[int] | None) -> dict[int, float]:
        """The best `limit` chunks by id, of those documents only, if given."""
        if document_keys is None:
            return self._run(self._query, limit)
        return self._run(self._within("document", document_keys), limit)

    def score(self, chunk_ids: Sequence[int]) -> dict[int, float]:
        """The scores of these chunks; one without any of the words is left out."""
        if not chunk_ids:
            return {}
        return self._run(self._within("id", chunk_ids), len(chunk_ids))

    def _within(self, field: str, values: Sequence[int]) -> tantivy.Query:
        Query, Occur = self._tantivy.Query, self._tantivy.Occur
        chosen = Query.term_set_query(self._view.schema, field, list(values))
        return Query.boolean_query(
            [(Occur.Must, Query.const_score_query(chosen, 0.0)), (Occur.Must, self._query)]
        )

    def _run(self, query: tantivy.Query, limit: int) -> dict[int, float]:
        if not self._bound:
            return {}
        searcher = self._view.searcher
        hits = searcher.search(query, limit, count=False).hits
        ids = searcher.fast_field_values("id", [address for _, address in hits])
        return {
            int(chunk_id): min(score / self._bound, 1.0)  # type: ignore[arg-type]
            for (score, _), chunk_id in zip(hits, ids, strict=True)
        }


class KeywordIndex:
    """The files of the index, and the one place that writes them. Writers hold the store's lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / f"keywords-{WORDS_VERSION}"
        self._index = self._open()

    def _open(self) -> tantivy.Index:
        import tantivy

        self._folder.mkdir(parents=True, exist_ok=True)
        schema = (
            tantivy.SchemaBuilder()
            .add_unsigned_field("id", indexed=True, fast=True)
            .add_unsigned_field("document", indexed=True)
            .add_unsigned_field("generation", fast=True)
            .add_text_field("words", tokenizer_name="whitespace", index_option="freq")
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
            document.add_text("words", " ".join(words(f"{context}\n{text}")))
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
