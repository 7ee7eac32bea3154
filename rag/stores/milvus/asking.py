"""A question put to one view of a knowledge base in Milvus."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rag.stores.milvus.explain import MissingCollectionError
from rag.stores.milvus.records import Records
from rag.stores.milvus.seen import best_seen
from rag.stores.milvus.vectors import Milvus
from rag.stores.milvus.views import View
from rag.stores.searching import OutdatedError, candidates
from rag.types import Candidate, Filters

if TYPE_CHECKING:
    from rag.types import Vector

_log = logging.getLogger("rag")


def search_view(
    view: View,
    records: Records,
    milvus: Milvus,
    question: str,
    vector: Vector,
    limit: int,
    filters: Filters,
) -> list[Candidate]:
    """Raises OutdatedError where rows that the view shows may have been deleted meanwhile."""
    keys: Sequence[int] | None = None
    if filters:
        if records.generation() != view.state.generation:
            raise OutdatedError
        keys = records.allowed(filters, view.state.generation)
        if not keys:
            return []
    asked = view.keywords.question(question)
    try:
        keyword = asked.search(limit, keys)
        dense = nearest(view, records, milvus, vector, limit, keys)
        others = [i for i in keyword if i not in dense]
        cosines = dense | _cosines(view, milvus, others, vector)
        matches = asked.matches([i for i in dict.fromkeys([*dense, *keyword]) if i in cosines])
    except MissingCollectionError:
        _raise_if_outdated(view, records)
        raise
    _raise_if_outdated(view, records)
    if len(cosines) < len(dense) + len(others):
        _log.warning("Milvus has lost vectors of this knowledge base: rag repair")
    return candidates(dense, keyword, cosines, matches)


def nearest(
    view: View,
    records: Records,
    milvus: Milvus,
    vector: Vector,
    limit: int,
    keys: Sequence[int] | None = None,
) -> dict[int, float]:
    """Cosines of the nearest chunks, best first; of those documents only, if given."""

    def ask(condition: str, count: int) -> dict[int, float]:
        return milvus.search(view.collection, vector, count, condition, view.state.guarantee)

    state = view.state
    return best_seen(
        *(ask, records, state.generation, limit, keys),
        hidden_documents=lambda: records.hidden(state.generation, state.mark, view.collection),
    )


def _cosines(
    view: View, milvus: Milvus, chunk_ids: Sequence[int], vector: Vector
) -> dict[int, float]:
    if not chunk_ids:
        return {}
    stored = milvus.vectors(view.collection, chunk_ids, view.state.guarantee)
    return {i: float(v @ vector) for i, v in stored.items()}


def _raise_if_outdated(view: View, records: Records) -> None:
    if records.is_outdated(view.state.generation):
        raise OutdatedError
