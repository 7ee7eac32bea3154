"""The vector index of a state of the database, by way of the files that are kept of it."""

from __future__ import annotations

import logging
from pathlib import Path

from rag.errors import BusyError
from rag.stores.embedded.database import Database, State
from rag.stores.embedded.keyword_cache import CACHES_LOCK, CACHING
from rag.stores.embedded.stored import Stored
from rag.stores.files import exclusive
from rag.stores.indexes.vectors import (
    Base,
    VectorIndex,
    as_ids,
    base_files,
    build_base_of,
    gather,
    load_base,
    save_base,
)

_log = logging.getLogger("rag")


class VectorCache:
    """Bases come from the newest file, or from the database, where there is none."""

    def __init__(self, folder: Path, db: Database) -> None:
        self._folder = folder
        self._db = db

    def at(self, state: State, dimension: int, held: VectorIndex | None) -> VectorIndex:
        """`held` is an earlier index of the same vectors, if there is one to go on with."""
        index = VectorIndex.empty(dimension) if held is None else held
        index = self._newer_base(index, state, dimension)
        if index.overwhelmed_by(self._db.count_between(index.generation, state.generation)):
            return self._made(dimension, state.generation)
        index = self.advanced(index, state, dimension)
        return self.rebuilt(index, dimension) if index.must_be_rebuilt else index

    def advanced(self, index: VectorIndex, state: State, dimension: int) -> VectorIndex:
        """The index with all that came and went up to `state`."""
        held, wanted = index.generation, state.generation
        ids, vectors = gather(self._db.vectors_between(held, wanted), dimension)
        removed = as_ids(self._db.removed_between(held, wanted))
        return index.changed(ids, vectors, removed, wanted)

    def _newer_base(self, index: VectorIndex, state: State, dimension: int) -> VectorIndex:
        for path, held in base_files(self._folder):
            if held < state.vectors_since or held > self._db.generation():
                # Of another model, or of a database that was here before.
                path.unlink(missing_ok=True)
            elif index.generation < held <= state.generation:
                base = load_base(path, held, dimension, state.identity)
                if base is not None:
                    return VectorIndex.of(base, dimension)
        return index

    def rebuilt(self, index: VectorIndex, dimension: int) -> VectorIndex:
        """A new base from the database; kept in memory only, if another process is writing one."""
        return self._made(dimension, index.generation)

    def _made(self, dimension: int, generation: int) -> VectorIndex:
        base = build_base_of(Stored(self._db, dimension, generation), dimension, generation)
        self.keep(base)
        return VectorIndex.of(base, dimension)

    def keep(self, base: Base) -> None:
        try:
            with exclusive(self._folder / CACHES_LOCK, CACHING):
                save_base(base, self._folder, self._db.identity)
        except BusyError:
            pass
        except OSError as error:  # it is only a cache; the next to open makes it again
            _log.warning("The vector index in %s cannot be kept: %s.", self._folder, error)

    def generations(self) -> list[int]:
        """Of the files there are."""
        return [held for _, held in base_files(self._folder)]

    def forget_the_future(self, newest: int) -> None:
        """Drops files of generations that the database does not have."""
        for path, held in base_files(self._folder):
            if held > newest:
                path.unlink(missing_ok=True)
