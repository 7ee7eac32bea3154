"""Which documents pass filters, decided as SQLite's GLOB decides."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable

from rag.types import Filters

Suits = Callable[[str, str, str, Iterable[str]], bool]


def passes(filters: Filters) -> Suits:
    """A test of a document's id, name, type and tags."""
    documents = frozenset(filters.documents)
    types = frozenset(t.lower().lstrip(".") for t in filters.types)
    tags = frozenset(filters.tags)
    patterns = [_pattern(path) for path in dict.fromkeys(filters.paths)]

    def suits(document_id: str, name: str, kind: str, held: Iterable[str]) -> bool:
        return (
            (not documents or document_id in documents or name in documents)
            and (not types or kind in types)
            and (not tags or not tags.isdisjoint(held))
            and (not patterns or any(p.match(name) for p in patterns))
        )

    return suits


def _pattern(glob: str) -> re.Pattern[str]:
    """`[^...]` negates, as in GLOB; fnmatch writes it `[!...]`."""
    return re.compile(fnmatch.translate(glob.replace("[^", "[!")))
