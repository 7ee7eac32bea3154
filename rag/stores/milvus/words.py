"""The keyword leg: this machine's tantivy index, brought up to date from the records."""

from __future__ import annotations

import threading
from pathlib import Path

from rag.errors import BusyError
from rag.stores.files import exclusive, make_folder
from rag.stores.indexes.keywords import KeywordIndex, KeywordView
from rag.stores.milvus.records import Records

_TRIES = 100
_WAIT = 0.05


class Words:
    """A cache in `folder`, which processes of one machine share; it can be lost at any moment."""

    def __init__(self, folder: Path, records: Records) -> None:
        make_folder(folder)
        self._folder = folder
        self._records = records
        self._index = KeywordIndex(folder, records.identity)

    def at(self, generation: int) -> KeywordView:
        """A view of `generation` or a later one: another process may be ahead of us."""
        for _ in range(_TRIES):
            view = self._index.view()
            newest = self._records.generation()
            if generation <= view.generation <= newest and self._is_of(view.generation):
                return view
            try:
                with exclusive(self._folder / "caches.lock", "bringing the indexes up to date"):
                    self._catch_up()
            except BusyError:
                threading.Event().wait(_WAIT)
        raise BusyError(
            "Another process has been bringing the keyword index up to date for too long.",
            "Try again in a minute.",
        )

    def _catch_up(self) -> None:
        newest = self._records.generation()
        held = self._index.view().generation
        if not (0 <= held <= newest and self._is_of(held)):
            self._index.start_anew()
            held = 0
        if held < newest:
            self._index.catch_up(
                self._records.removed_between(held, newest),
                self._records.texts_between(held, newest),
                newest,
            )
            self._note.write_text(self._records.mark(newest))

    def _is_of(self, generation: int) -> bool:
        """Whether the index was made of this generation, not of one that was restored away."""
        try:
            noted = self._note.read_text()
        except FileNotFoundError:
            noted = ""
        return noted == self._records.mark(generation)

    @property
    def _note(self) -> Path:
        return self._folder / "keywords.mark"
