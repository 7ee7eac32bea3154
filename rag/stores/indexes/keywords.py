"""The keyword leg: a tantivy index derived from the texts in the database.

The index notes the generation it holds, and the database that this is of, in a document of its
own, so that text and note change in one commit. BM25 is as tantivy computes it (k1 1.2, b 0.75,
Lucene's idf).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rag.stores.indexes.aside import branch, drop, empty, settle, show
from rag.stores.indexes.sealed import broken_tantivy_files
from rag.text import TERMS_VERSION, is_telling, question_terms, terms

if TYPE_CHECKING:
    import numpy as np
    import tantivy
    from numpy.typing import NDArray

    Ids = NDArray[np.int64]

NOTE = 0  # the chunk id of the document that notes the generation; real ids start at 1
_HEAP = 64_000_000
_MAX_QUESTION_TERMS = 256
# One query tells two numbers: its score counts terms in units, and their idf in parts of a unit.
# Scores are 32-bit floats, exact up to 2**24, which 256 units do not reach.
_UNIT = 1 << 14
_PARTS = _UNIT - _MAX_QUESTION_TERMS
# A term of more chunks than this, and of a tenth of all, is frequent: its list takes longer to read
# than all else and decides little. Such terms do not choose candidates while others find enough;
# they count in every candidate's scores. At 100,000 chunks the best hit stays the same in 300 of
# 300 questions, and so do 99 of 100 among the best five.
_FREQUENT = 10_000
_MANY = 0.01  # of all chunks
_SPARE = 1.5
_WIDER = 8


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
        frequent: set[str] = set()
        for term in question_terms(text)[:_MAX_QUESTION_TERMS]:
            frequency = self.searcher.doc_freq("terms", term)
            weights[term] = math.log(1 + (chunks - frequency + 0.5) / (frequency + 0.5))
            if frequency > max(_FREQUENT, chunks // 10):
                frequent.add(term)
        return Question(self, weights, frequent)


class Question:
    """One question's terms against one view."""

    def __init__(self, view: KeywordView, weights: dict[str, float], frequent: Set[str]) -> None:
        import tantivy

        self._view = view
        self._tantivy = tantivy
        self._weights = weights
        self._frequent = frequent
        self._telling = any(map(is_telling, weights))
        self._found: dict[int, float] = {}  # BM25 that is known already

    def search(
        self, limit: int, document_keys: Sequence[int] | Ids | None, ids: Ids | None = None
    ) -> list[int]:
        """The ids of the best `limit` chunks by BM25, of those documents only, if given; `ids` are
        then their chunks, rising, where the caller knows them.

        Frequent terms are left out of account while the others find `limit` chunks.
        """
        terms = self._terms(lambda query, _: query)
        chosen = [query for term, query in terms.items() if term not in self._frequent]
        found = self._best(chosen, limit, document_keys, ids)
        if len(chosen) < len(terms):
            if len(found) == limit:
                return list(found)
            found = self._best(list(terms.values()), limit, document_keys, ids)
        self._found = found
        return list(found)

    def _best(
        self,
        terms: Sequence[tantivy.Query],
        limit: int,
        document_keys: Sequence[int] | Ids | None,
        ids: Ids | None,
    ) -> dict[int, float]:
        if not terms:
            return {}
        query = self._any_of(terms)
        if document_keys is None:
            return self._run(query, limit)
        found = None if ids is None else self._best_of_many(query, limit, ids)
        if found is None:
            documents = self._tantivy.Query.term_set_query(
                self._view.schema, "document", [int(key) for key in document_keys]
            )
            found = self._run(self._all_of([self._unscored(documents), query]), limit)
        return found

    def _best_of_many(self, query: tantivy.Query, limit: int, ids: Ids) -> dict[int, float] | None:
        """The same from all chunks, best first, until `limit` pass or none is left: a set of many
        documents takes tantivy seconds. None where that may not be enough."""
        import numpy as np

        share = len(ids) / max(self._view.searcher.num_docs - 1, 1)
        if share < _MANY:
            return None
        looked_at = int(_SPARE * limit / share)
        for most in (looked_at, _WIDER * looked_at):
            found = self._run(query, most)
            places = np.searchsorted(ids, list(found))
            passing = [
                i
                for i, place in zip(found, places, strict=True)
                if place < len(ids) and ids[place] == i
            ]
            if len(passing) >= limit or len(found) < most:
                return {i: found[i] for i in passing[:limit]}
        return None

    def matches(self, chunk_ids: Sequence[int]) -> dict[int, Match]:
        """How these chunks match; one without any of the terms is left out.

        A question of nothing but function words has a share of 0 with every chunk.
        """
        if not chunk_ids or not self._weights:
            return {}
        total = sum(self._weights.values())
        parts = {term: round(_PARTS * w / total) for term, w in self._weights.items()}
        constant = self._tantivy.Query.const_score_query
        held = self._terms(lambda query, term: constant(query, float(_UNIT + parts[term])))
        unscored = [i for i in chunk_ids if i not in self._found]
        bm25 = self._found | self._scored(unscored, self._terms(lambda query, _: query))
        all_parts = sum(parts.values())
        terms_asked = len(self._weights) if self._telling else math.inf
        matches = {}
        for i, score in self._scored(chunk_ids, held).items():
            count, part = divmod(int(score), _UNIT)
            matches[i] = Match(bm25.get(i, 0.0), part / all_parts, count / terms_asked)
        return matches

    def _scored(
        self, chunk_ids: Sequence[int], terms: Mapping[str, tantivy.Query]
    ) -> dict[int, float]:
        """The sum of the terms' scores for those of the chunks that hold any."""
        if not chunk_ids:
            return {}
        Query, Occur = self._tantivy.Query, self._tantivy.Occur
        # For a hundred ids, a query for each takes a fifth of the time of one for the set.
        chosen = self._any_of([Query.term_query(self._view.schema, "id", i) for i in chunk_ids])
        query = Query.boolean_query(
            [(Occur.Must, self._unscored(chosen))]
            + [(Occur.Should, q) for term, q in terms.items() if term not in self._frequent]
        )
        for term in self._frequent:
            query = Query.boolean_query([(Occur.Must, query), (Occur.Should, terms[term])])
        return {i: score for i, score in self._run(query, len(chunk_ids)).items() if score > 0}

    def _terms(
        self, weigh: Callable[[tantivy.Query, str], tantivy.Query]
    ) -> dict[str, tantivy.Query]:
        term_query, schema = self._tantivy.Query.term_query, self._view.schema
        return {
            term: weigh(term_query(schema, "terms", term, index_option="freq"), term)
            for term in self._weights
        }

    def _any_of(self, queries: Iterable[tantivy.Query]) -> tantivy.Query:
        return self._tantivy.Query.boolean_query(
            [(self._tantivy.Occur.Should, query) for query in queries]
        )

    def _all_of(self, queries: Iterable[tantivy.Query]) -> tantivy.Query:
        return self._tantivy.Query.boolean_query(
            [(self._tantivy.Occur.Must, query) for query in queries]
        )

    def _unscored(self, query: tantivy.Query) -> tantivy.Query:
        return self._tantivy.Query.const_score_query(query, 0.0)

    def _run(self, query: tantivy.Query, limit: int) -> dict[int, float]:
        searcher = self._view.searcher
        hits = searcher.search(query, limit, count=False).hits
        ids = searcher.fast_field_values("id", [address for _, address in hits])
        return {int(i): float(score) for (score, _), i in zip(hits, ids, strict=True)}  # type: ignore[arg-type]


def is_damage(error: BaseException) -> bool:
    """Of an index that is only a cache. tantivy panics with no Exception, and no public name."""
    return isinstance(error, ValueError | OSError) or type(error).__name__ == "PanicException"


_SYSTEM_WORDS = ("os error", "IoError", "io::Error", "Lock")


def is_of_the_system(error: BaseException) -> bool:
    """Whether the disk is full, a file may not be written or is locked, as tantivy words it."""
    told = str(error)
    return isinstance(error, OSError) or any(word in told for word in _SYSTEM_WORDS)


def index_folder(folder: Path) -> Path:
    """Where the knowledge base in `folder` has its keyword index."""
    return folder / f"keywords-{TERMS_VERSION}"


def _mark(identity: str) -> str:
    """A term that no text has, for none of its terms holds a colon."""
    return f"of:{identity}"


def noted_generation(searcher: tantivy.Searcher, schema: tantivy.Schema, identity: str) -> int:
    """0 of an index that holds nothing yet, -1 of one that another database's texts are in."""
    import tantivy

    note = tantivy.Query.term_query(schema, "id", NOTE)
    hits = searcher.search(note, 1, count=False).hits
    if not hits:
        return 0 if searcher.num_docs == 0 else -1
    if not searcher.doc_freq("terms", _mark(identity)):
        return -1
    values = searcher.fast_field_values("generation", [address for _, address in hits])
    return -1 if values[0] is None else int(values[0])


class Coming:
    """What is written aside and not shown yet (see aside.py)."""

    def __init__(self, live: Path, schema: tantivy.Schema, identity: str, *, anew: bool) -> None:
        import tantivy

        self._live = live
        self._folder = empty(live) if anew else branch(live)
        self._schema = schema
        self._identity = identity
        self._writer = tantivy.Index(schema, path=str(self._folder)).writer(_HEAP, 1)

    def write(
        self,
        removed: Iterable[int],
        added: Iterable[tuple[int, int, str, str]],
        generation: int,
    ) -> None:
        """Takes out chunk ids, puts in (id, document key, context, text), notes the generation."""
        import tantivy

        # By query: deletion by term takes the number for a signed one and finds nothing.
        gone = tantivy.Query.term_set_query(self._schema, "id", [*removed, NOTE])
        self._writer.delete_documents_by_query(gone)
        for chunk_id, document_key, context, text in added:
            document = tantivy.Document()
            document.add_unsigned("id", chunk_id)
            document.add_unsigned("document", document_key)
            document.add_text("terms", " ".join(terms(f"{context}\n{text}")))
            self._writer.add_document(document)
        note = tantivy.Document()
        note.add_unsigned("id", NOTE)
        note.add_unsigned("generation", generation)
        note.add_text("terms", _mark(self._identity))
        self._writer.add_document(note)
        self._writer.commit()
        self._writer.wait_merging_threads()
        settle(self._folder, self._live)

    def show(self) -> None:
        """What was written, to all who look from now on. Raises OSError."""
        show(self._folder, self._live)

    def abandon(self) -> None:
        """Ends the writer's threads, if it has any left, and deletes what they wrote."""
        try:
            for end in (self._writer.rollback, self._writer.wait_merging_threads):
                try:
                    end()
                except BaseException as error:  # the writer's own error, or it has ended already
                    if not is_damage(error):
                        raise
        finally:
            drop(self._folder)


class KeywordIndex:
    """The files of the index, and the one place that writes them. Writers hold the store's lock."""

    def __init__(self, folder: Path, identity: str) -> None:
        """`identity` is the database's: what was made for another is not believed."""
        self._folder = index_folder(folder)
        self.identity = identity
        self._index = self._open()

    def _open(self) -> tantivy.Index:
        import tantivy

        self._folder.mkdir(parents=True, exist_ok=True)
        if broken_tantivy_files(self._folder, read_all=False):
            self._clear()
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
        except BaseException as error:
            if not is_damage(error):
                raise
            self._clear()
            return tantivy.Index(schema, path=str(self._folder))

    def _clear(self) -> None:
        """The folder goes as a whole: whoever has the index open may still put a lock into it."""
        old = self._folder.with_suffix(".old")
        shutil.rmtree(old, ignore_errors=True)
        with suppress(FileNotFoundError):
            self._folder.rename(old)
        shutil.rmtree(old, ignore_errors=True)
        self._folder.mkdir(exist_ok=True)

    def view(self) -> KeywordView:
        """Its generation is -1 if a file of it is damaged or gone, or it is another database's."""
        searcher = self._index.searcher()
        try:
            self._index.reload()
            searcher = self._index.searcher()
            generation = noted_generation(searcher, self._index.schema, self.identity)
        except BaseException as error:
            if not is_damage(error):
                raise
            generation = -1
        return KeywordView(self._index.schema, searcher, generation)

    def catch_up(
        self,
        removed: Iterable[int],
        added: Iterable[tuple[int, int, str, str]],
        generation: int,
    ) -> None:
        """As `Coming.write`, and shows it."""
        coming = self.written(removed, added, generation)
        try:
            coming.show()
        except BaseException:
            coming.abandon()
            raise

    def written(
        self,
        removed: Iterable[int],
        added: Iterable[tuple[int, int, str, str]],
        generation: int,
        *,
        anew: bool = False,
    ) -> Coming:
        """As `catch_up`, but nobody sees anything of it before it is shown. `anew`: nothing of
        what the index holds will be in it."""
        coming = Coming(self._folder, self._index.schema, self.identity, anew=anew)
        try:
            coming.write(removed, added, generation)
        except BaseException:
            coming.abandon()
            raise
        return coming

    def start_anew(self) -> None:
        self._clear()
        self._index = self._open()
