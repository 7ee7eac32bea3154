"""Documents of an embedded knowledge base by uri, each looked up in the index of its column."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import islice

from rag.stores.embedded.rows import INFO, as_json, info_of
from rag.types import DocumentInfo, Known

_AT_ONCE = 1_000


class StoredDocuments(Known):
    """Those that `visible` says are, a condition on `documents d` whose values `bound` gives.

    `visible` must not use an index, or SQLite may walk that instead. `reading` lends a connection.
    """

    def __init__(
        self,
        reading: Callable[[], AbstractContextManager[sqlite3.Connection]],
        visible: str,
        bound: Callable[[sqlite3.Connection], Mapping[str, int]],
    ) -> None:
        self._reading = reading
        self._visible = visible
        self._bound = bound

    def __getitem__(self, uri: str) -> DocumentInfo:
        return self.some((uri,))[uri]

    def __iter__(self) -> Iterator[str]:
        return self.below("")

    def __len__(self) -> int:
        return int(self._rows("count(*)", "1", {})[0][0])

    def some(self, uris: Iterable[str]) -> dict[str, DocumentInfo]:
        found: dict[str, DocumentInfo] = {}
        for part in _parts(uris):
            chosen = "d.uri IN (SELECT value FROM json_each(:uris))"
            rows = self._rows(INFO, chosen, {"uris": as_json(part)})
            found |= {row[1]: info_of(row) for row in rows}
        return found

    def below(self, prefix: str) -> Iterator[str]:
        """Page by page, so that nothing is held open between them."""
        chosen, last = "d.uri >= :last", prefix
        values: dict[str, object] = {"limit": _AT_ONCE}
        end = _end_of(prefix)
        upto = ""
        if end is not None:
            upto, values["end"] = " AND d.uri < :end", end
        while True:
            page = self._rows(
                "d.uri", f"{chosen}{upto}", values | {"last": last}, "ORDER BY d.uri LIMIT :limit"
            )
            yield from (uri for (uri,) in page)
            if len(page) < _AT_ONCE:
                return
            chosen, last = "d.uri > :last", page[-1][0]

    def holding(self, hashes: Iterable[str]) -> Iterator[str]:
        for part in _parts(hashes):
            chosen = "d.content_hash IN (SELECT value FROM json_each(:hashes))"
            yield from (uri for (uri,) in self._rows("d.uri", chosen, {"hashes": as_json(part)}))

    def _rows(
        self, columns: str, chosen: str, values: Mapping[str, object], rest: str = ""
    ) -> list[tuple]:  # type: ignore[type-arg]
        with self._reading() as db:
            where = f"{chosen} AND {self._visible}"
            return db.execute(
                f"SELECT {columns} FROM documents d WHERE {where} {rest}",
                {**values, **self._bound(db)},
            ).fetchall()


def _parts(values: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(values)
    while part := list(islice(rest, _AT_ONCE)):
        yield part


def _end_of(prefix: str) -> str | None:
    """The least text above all that begin with `prefix`, as UTF-8 is ordered; None if none is."""
    for place in range(len(prefix) - 1, -1, -1):
        following = ord(prefix[place]) + 1
        if 0xD800 <= following <= 0xDFFF:
            following = 0xE000
        if following <= 0x10FFFF:
            return prefix[:place] + chr(following)
    return None
