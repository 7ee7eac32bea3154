"""A question put to one view of an embedded knowledge base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rag.stores.embedded.database import Database
from rag.stores.embedded.views import View
from rag.stores.searching import OutdatedError, candidates
from rag.types import Candidate, Filters

if TYPE_CHECKING:
    from rag.types import Vector


def search_view(
    view: View, db: Database, question: str, vector: Vector, limit: int, filters: Filters
) -> list[Candidate]:
    """Raises OutdatedError where rows that the view knows are no longer in the database: what
    replaced them is for a newer view to find."""
    keys = ids = None
    if filters:
        passing = db.allowed(filters)
        if passing.generation != view.state.generation:
            raise OutdatedError
        keys, ids = passing.keys, passing.ids
        if not len(ids):
            return []
    found = view.vectors.search(vector, limit, ids)
    asked = view.keywords.question(question)
    keyword = asked.search(limit, keys, ids)
    either = dict.fromkeys([*found, *keyword])
    inexact = [i for i in either if i not in found or not view.vectors.exact]
    stored = _cosines(db, inexact, vector)
    if len(stored) < len(inexact) and db.generation() != view.state.generation:
        raise OutdatedError
    cosines = found | stored
    known = found if view.vectors.exact else found.keys() & stored.keys()
    dense = dict.fromkeys(sorted(known, key=lambda i: (-cosines[i], i))[:limit])
    both = list(dict.fromkeys([*dense, *keyword]))
    return candidates(dense, keyword, cosines, asked.matches(both))


def _cosines(db: Database, chunk_ids: Sequence[int], vector: Vector) -> dict[int, float]:
    import numpy as np

    stored = db.vectors_of(chunk_ids)
    if not stored:
        return {}
    matrix = np.frombuffer(b"".join(stored.values()), dtype="<f4").reshape(len(stored), -1)
    return dict(zip(stored, (matrix @ vector).tolist(), strict=True))
