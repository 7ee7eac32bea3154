"""What an operator can do with a store, whichever kind it is."""

from __future__ import annotations

from typing import Protocol

from rag.stores.contents import HasContents
from rag.stores.generations import Freed, Generation
from rag.stores.recall import Recall
from rag.types import ChunkStore


class ManagedStore(ChunkStore, HasContents, Protocol):
    """A knowledge base with its earlier generations."""

    def generations(self) -> list[Generation]:
        """The published one and those that can be brought back, newest first."""
        ...

    def rollback(self, generation: int | None = None) -> int:
        """Publishes what an earlier generation showed, by default the one before, as a new one;
        returns its number. Nothing is embedded; a rollback can itself be rolled back.

        Raises NotFoundError if it is not kept, InputError if it is the published one, BusyError
        if another process is writing.
        """
        ...

    def gc(self, keep: int | None = None) -> Freed:
        """Lets go of all generations but the published one and `keep` before it (by default as
        many as writing keeps). Raises BusyError.
        """
        ...

    def measure_recall(self, sample: int = 200) -> Recall | None:
        """How much of what is nearest search finds, with that many questions; reads every vector.
        None if there is nothing yet."""
        ...

    def last_recall(self) -> Recall | None:
        """What `measure_recall` last found, in whichever process."""
        ...
