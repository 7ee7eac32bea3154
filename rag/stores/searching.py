"""What every store does round its own way of searching."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol, TypeVar

from rag.errors import BusyError, FingerprintError
from rag.stores.indexes.keywords import Match
from rag.types import Candidate, Fingerprint, Via

TRIES = 100
_NO_MATCH = Match(0.0, 0.0, 0.0)


class OutdatedError(Exception):
    """The view a search began with is no longer what is stored."""


class _State(Protocol):
    @property
    def fingerprint(self) -> Fingerprint | None: ...


class _View(Protocol):
    @property
    def state(self) -> _State: ...


V = TypeVar("V", bound=_View)


def search_newest(
    current: Callable[[], V | None],
    refresh: Callable[[], object],
    began: Fingerprint | None,
    search: Callable[[V], list[Candidate]],
) -> list[Candidate]:
    """Searches the current view, and a newer one where that turns out to be outdated.

    `current` gives None if nothing was ever published, `began` is the model that the question was
    embedded with. Raises FingerprintError if the store has moved to another, BusyError if it is
    published faster than it can be searched.
    """
    for _ in range(TRIES):
        view = current()
        if view is None:
            return []
        if began not in (None, view.state.fingerprint):
            raise FingerprintError(
                "The knowledge base has just moved to another embedding model.", "Ask again."
            )
        try:
            return search(view)
        except OutdatedError:
            refresh()
    raise BusyError("The knowledge base changes faster than it can be searched.", "Ask again.")


def candidates(
    dense: Collection[int],
    keyword: Sequence[int],
    cosines: Mapping[int, float],
    matches: Mapping[int, Match],
) -> list[Candidate]:
    """Those found by either leg whose cosine is known: dense ones first, each by rank."""
    worded = frozenset(keyword)
    found = []
    for i in dict.fromkeys([*dense, *keyword]):
        if i in cosines:
            match = matches.get(i, _NO_MATCH)
            via: Via = "keyword" if i not in dense else "both" if i in worded else "dense"
            found.append(Candidate(i, cosines[i], match.bm25, match.coverage, match.share, via))
    return found


def other_vectors(recorded: Fingerprint, offered: Fingerprint) -> FingerprintError:
    return FingerprintError(
        f"This knowledge base holds vectors of {recorded.model} ({recorded.revision},"
        f" {recorded.dimension} dimensions), not of {offered.model} ({offered.revision},"
        f" {offered.dimension} dimensions).",
        f"Use the recorded model, or change it with: rag reindex --embedding {offered.model}",
    )
