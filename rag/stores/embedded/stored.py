"""The vectors of a database, in blocks: a base of them needs not hold them all at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rag.stores.embedded.database import Database
from rag.stores.indexes.vectors import as_ids, gather

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rag.types import Matrix

    Ids = NDArray[np.int64]

_AT_ONCE = 500
_BLOCK = 20_000


class Stored:
    """Those that came in generations (after, upto]. One that is deleted meanwhile is left out."""

    def __init__(self, db: Database, dimension: int, upto: int, *, after: int = 0) -> None:
        self._db = db
        self.dimension = dimension
        self._ids = as_ids(db.ids_between(after, upto))

    def __len__(self) -> int:
        return len(self._ids)

    def sample(self, count: int, generator: np.random.Generator) -> Matrix:
        chosen = generator.choice(self._ids, min(len(self), count), replace=False)
        chosen.sort()
        return self._read(chosen)[1]

    def blocks(self) -> Iterator[tuple[Ids, Matrix]]:
        for start in range(0, len(self), _BLOCK):
            yield self._read(self._ids[start : start + _BLOCK])

    def _read(self, ids: Ids) -> tuple[Ids, Matrix]:
        rows: dict[int, bytes] = {}
        for start in range(0, len(ids), _AT_ONCE):
            rows |= self._db.vectors_of(ids[start : start + _AT_ONCE].tolist())
        return gather(sorted(rows.items()), self.dimension)
