"""What an operator can do with a store, whichever kind it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rag.errors import InputError, NotFoundError
from rag.stores.contents import HasContents
from rag.stores.recall import Recall
from rag.types import ChunkStore, Fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One that can be brought back, or the one that is published.

    `restores` is the generation that it brought back; None for what an ingest published.
    """

    number: int
    published_at: str  # ISO 8601, UTC
    documents: int
    chunks: int
    fingerprint: Fingerprint
    restores: int | None
    current: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """What was let go. `documents` and `chunks` count versions; `bytes` is what the disk got."""

    generations: int = 0
    documents: int = 0
    chunks: int = 0
    bytes: int = 0


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


def chosen(kept: list[Generation], number: int | None) -> Generation:
    """The one to bring back, of those that are kept. Raises NotFoundError, InputError."""
    earlier = [generation for generation in kept if not generation.current]
    if not earlier:
        raise NotFoundError(
            "There is no earlier generation to bring back.",
            "How many are kept is set by RAG_KEEP_GENERATIONS.",
        )
    if number is None:
        return earlier[0]
    for generation in kept:
        if generation.number == number:
            if generation.current:
                raise InputError(f"Generation {number} is the one that is published.")
            return generation
    known = ", ".join(str(generation.number) for generation in earlier)
    raise NotFoundError(f"Generation {number} is not kept.", f"These can be brought back: {known}.")
