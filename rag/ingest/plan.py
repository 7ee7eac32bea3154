"""What is to be read, and what has gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

from rag.ingest.report import Failure
from rag.types import Content, Document, DocumentInfo, Known

_LOOKED_UP = 500  # sources at a time


class Source(Protocol):
    """Something that becomes one document."""

    @property
    def uri(self) -> str: ...

    @property
    def name(self) -> str: ...

    def read(self) -> bytes:
        """Raises LoadError."""
        ...

    def load(self, data: bytes) -> Content:
        """Raises LoadError."""
        ...


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document of a knowledge base, to be split and embedded anew from its stored text."""

    info: DocumentInfo
    fetch: Callable[[str], Document]

    @property
    def uri(self) -> str:
        return self.info.uri

    @property
    def name(self) -> str:
        return self.info.name


@dataclass(frozen=True, slots=True)
class Covers:
    """Which uris a plan has looked for: those that begin with one of `prefixes`, if `also` agrees.

    The prefixes are looked up and `also` is asked about what lies there, so they should be narrow.
    """

    prefixes: tuple[str, ...] = ()
    also: Callable[[str], bool] = lambda _uri: True

    def __call__(self, uri: str) -> bool:
        return uri.startswith(self.prefixes) and self.also(uri)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be read, and which known documents are gone if they are not among it: those that
    it covers, and those of content that was read elsewhere, if `is_gone`."""

    sources: Sequence[Source | StoredDocument]
    covers: Covers = Covers()
    is_gone: Callable[[str], bool] = lambda _uri: False
    skipped: Sequence[Failure] = ()
    notes: Sequence[str] = ()


def with_known(
    sources: Sequence[Source | StoredDocument], known: Known | None
) -> Iterator[tuple[Source | StoredDocument, DocumentInfo | None]]:
    """Each source with the document that it would replace."""
    for start in range(0, len(sources), _LOOKED_UP):
        some = sources[start : start + _LOOKED_UP]
        before = {} if known is None else known.some([source.uri for source in some])
        for source in some:
            yield source, before.get(source.uri)


def vanished(plan: Plan, known: Known, digests: AbstractSet[str]) -> list[DocumentInfo]:
    """Known documents to remove: covered by the plan but not found, or moved to where it looked.

    `digests` are the content hashes of what was read. A skipped file keeps its document.
    """
    present = {source.uri for source in plan.sources}
    skipped = {failure.name for failure in plan.skipped}
    covered = (
        uri
        for prefix in plan.covers.prefixes
        for uri in known.below(prefix)
        if uri not in present and plan.covers(uri)
    )
    moved = (uri for uri in known.holding(digests) if uri not in present and plan.is_gone(uri))
    absent = known.some(dict.fromkeys([*covered, *moved]))
    return [info for info in absent.values() if info.name not in skipped]
