"""Which documents and chunks of an embedded knowledge base pass filters, as arrays."""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag.stores.embedded.rows import as_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ids = NDArray[np.int64]

# Chunks of more documents than this are picked from all chunks: one walk instead of many searches.
_FEW = 20_000
_KEPT = 4_000_000  # numbers: 32 MB
_MOST_GROWTH = 2.0


@dataclass(frozen=True, slots=True)
class Passing:
    """Keys of documents and ids of chunks of one generation, both rising."""

    generation: int
    keys: Ids
    ids: Ids


class AllChunks:
    """The document of each chunk there ever was since it was first asked; what is gone may be among
    them, for no number is given twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: Hashable = None
        self._loaded = 0
        self._ids: Ids | None = None
        self._keys: Ids | None = None

    def of(self, db: sqlite3.Connection, source: Hashable, keys: Ids) -> Ids:
        """The chunks of the documents of these keys, rising. `source` tells databases apart."""
        import numpy as np

        with self._lock:
            all_ids, all_keys = self._followed(db, source)
        if not len(all_keys) or not len(keys):
            return np.empty(0, np.int64)
        passes = np.zeros(max(int(all_keys.max()), int(keys[-1])) + 1, bool)
        passes[keys] = True
        chosen: Ids = all_ids[passes[all_keys]].astype(np.int64)
        return chosen

    def _followed(self, db: sqlite3.Connection, source: Hashable) -> tuple[Ids, Ids]:
        import numpy as np

        ids, keys = self._ids, self._keys
        if ids is None or keys is None or source != self._of:
            ids, keys = _chunks(db, "")
            self._loaded = len(ids)
        else:
            last = int(ids[-1]) if len(ids) else 0
            more_ids, more_keys = _chunks(db, f"WHERE id > {last}")
            ids, keys = np.concatenate([ids, more_ids]), np.concatenate([keys, more_keys])
        self._of, self._ids, self._keys = source, ids, keys
        if len(ids) > _MOST_GROWTH * self._loaded:  # mostly of what is gone
            self._of = None
        return ids, keys


class Remembered:
    """What passed lately: filters come again, from those who may see only a part."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._passing: OrderedDict[Hashable, Passing] = OrderedDict()

    def get(self, key: Hashable) -> Passing | None:
        with self._lock:
            found = self._passing.get(key)
            if found is not None:
                self._passing.move_to_end(key)
            return found

    def put(self, key: Hashable, passing: Passing) -> None:
        with self._lock:
            self._passing[key] = passing
            while len(self._passing) > 1 and self._size() > _KEPT:
                self._passing.popitem(last=False)

    def _size(self) -> int:
        return sum(len(each.keys) + len(each.ids) for each in self._passing.values())


def numbers(db: sqlite3.Connection, column: str, rest: str, values: object = ()) -> Ids:
    """A column of numbers, rising. As one text: half the time of as many rows."""
    import numpy as np

    statement = f"SELECT group_concat({column}) FROM {rest}"
    found = _parsed(db.execute(statement, values).fetchone()[0])  # type: ignore[arg-type]
    return np.sort(found, kind="stable")


def chunks_of(db: sqlite3.Connection, keys: Ids, every: AllChunks, source: Hashable) -> Ids:
    """The ids of the chunks of the documents of these keys."""
    if len(keys) > _FEW:
        return every.of(db, source, keys)
    chosen = "chunks WHERE document_key IN (SELECT value FROM json_each(?))"
    return numbers(db, "id", chosen, (as_json(keys.tolist()),))


def _chunks(db: sqlite3.Connection, where: str) -> tuple[Ids, Ids]:
    import numpy as np

    columns = "SELECT group_concat(id), group_concat(document_key) FROM chunks"
    ids, keys = map(_parsed, db.execute(f"{columns} {where}").fetchone())
    order = np.argsort(ids, kind="stable")
    return _small(ids[order]), _small(keys[order])


def _parsed(text: str | None) -> Ids:
    import numpy as np

    parsed: Ids = np.fromstring(text or "", np.int64, sep=",")
    return parsed


def _small(values: Ids) -> Ids:
    """In half the memory, while they are small enough."""
    import numpy as np

    fits = not len(values) or int(values.max()) <= np.iinfo(np.int32).max
    return values.astype(np.int32) if fits else values
