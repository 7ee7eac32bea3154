"""The keyword index on disk, brought to what the database holds."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from rag.errors import BusyError, StoreError
from rag.stores.embedded.database import Database
from rag.stores.files import exclusive
from rag.stores.indexes.keywords import (
    Coming,
    KeywordIndex,
    KeywordView,
    is_damage,
    is_of_the_system,
)
from rag.stores.searching import TRIES

CACHES_LOCK = "caches.lock"
CACHING = "bringing the indexes up to date"
_PAUSE = 0.05  # seconds


class KeywordCache:
    """Made again from the database wherever it is damaged, lost or another database's."""

    def __init__(self, folder: Path, db: Database) -> None:
        self._folder = folder
        self._db = db
        self._index = KeywordIndex(folder, db.identity)

    def belongs_to(self, identity: str) -> None:
        """Another database may have been put in the place of the one there was."""
        if identity != self._index.identity:
            self._index = KeywordIndex(self._folder, identity)

    def view(self) -> KeywordView:
        """What is on the disk, of whichever generation."""
        return self._index.view()

    def at(self, generation: int) -> KeywordView:
        """A view of `generation` or a later one: another process may be ahead of us.

        Raises BusyError, StoreError.
        """
        for _ in range(TRIES):
            view = self._index.view()
            if generation <= view.generation <= self._db.generation():
                return view
            try:
                with exclusive(self._folder / CACHES_LOCK, CACHING):
                    self.catch_up()
            except BusyError:
                threading.Event().wait(_PAUSE)
        raise BusyError(
            "Another process has been bringing the keyword index up to date for too long.",
            "Try again in a minute.",
        )

    def catch_up(self, *, anew: bool = False) -> None:
        """To what is published. The caller holds the lock of the caches."""
        state = self._db.state()
        held = self._index.view().generation
        if not (held == 0 or state.removals_since <= held <= state.generation):
            self._index.start_anew()
            held = 0
        if held == state.generation:
            return
        try:
            self._write(held, state.generation)
        except BaseException as error:
            if not is_damage(error):
                raise
            if anew or is_of_the_system(error):
                raise self._unwritable(error) from error
            self._index.start_anew()
            self.catch_up(anew=True)

    def _write(self, held: int, newest: int) -> None:
        self._index.catch_up(
            self._db.removed_between(held, newest), self._db.texts_between(held, newest), newest
        )

    def ahead(self, target: int, leaving: Sequence[int], *, anew: bool) -> Coming | None:
        """`target`, written over the generation before it, which the index must hold, or `anew`
        if nothing of that stays. `leaving` are the chunks that go in it. None if the index is
        damaged: it is made anew after publishing."""
        added = self._db.texts_between(target - 1, target)
        try:
            return self._index.written(() if anew else leaving, added, target, anew=anew)
        except BaseException as error:
            if not is_damage(error):
                raise
            if is_of_the_system(error):
                raise self._unwritable(error) from error
            return None

    def forget_the_future(self, newest: int) -> None:
        """Drops an index of a generation that the database does not have."""
        if self._index.view().generation > newest:
            with exclusive(self._folder / CACHES_LOCK, CACHING):
                self._index.start_anew()

    def _unwritable(self, error: BaseException) -> StoreError:
        why = "the disk is full" if "No space left" in str(error) else str(error)
        return StoreError(
            f"The keyword index in {self._folder} cannot be written: {why}.",
            "Check the disk's free space and the folder's permissions, then run the command again:"
            " nothing that was ingested is lost.",
        )
