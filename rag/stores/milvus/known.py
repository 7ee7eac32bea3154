"""Documents of a knowledge base in the application database by uri."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from rag.stores.milvus.records import Records, batches
from rag.types import DocumentInfo, Known

if TYPE_CHECKING:
    import sqlalchemy as sa

_IN_ONE = 500  # values in one IN
_AT_ONCE = 1_000


class StoredDocuments(Known):
    """Those that `visible` says are, a condition on documents of one knowledge base."""

    def __init__(self, records: Records, visible: Callable[[], sa.ColumnElement[bool]]) -> None:
        self._records = records
        self._visible = visible

    def __getitem__(self, uri: str) -> DocumentInfo:
        return self.some((uri,))[uri]

    def __iter__(self) -> Iterator[str]:
        return self.below("")

    def __len__(self) -> int:
        import sqlalchemy as sa

        counted = sa.select(sa.func.count()).select_from(self._records.tables.documents)
        with self._records.part.reading() as connection:
            return int(connection.execute(counted.where(self._visible())).scalar_one())

    def some(self, uris: Iterable[str]) -> dict[str, DocumentInfo]:
        d = self._records.tables.documents
        found: dict[str, DocumentInfo] = {}
        for part in batches(uris, _IN_ONE):
            infos = self._records.infos(self._visible() & d.c.uri.in_(part))
            found |= {info.uri: info for info in infos}
        return found

    def below(self, prefix: str) -> Iterator[str]:
        """Page by page, so that no transaction is held open between them."""
        d = self._records.tables.documents
        begun = d.c.uri >= prefix
        while True:
            page = self._uris(begun, _AT_ONCE)
            for uri in page:
                if not uri.startswith(prefix):
                    return
                yield uri
            if len(page) < _AT_ONCE:
                return
            begun = d.c.uri > page[-1]

    def holding(self, hashes: Iterable[str]) -> Iterator[str]:
        d = self._records.tables.documents
        for part in batches(hashes, _IN_ONE):
            yield from self._uris(d.c.content_hash.in_(part), None)

    def _uris(self, chosen: sa.ColumnElement[bool], limit: int | None) -> list[str]:
        import sqlalchemy as sa

        d = self._records.tables.documents
        wanted = sa.select(d.c.uri).where(self._visible(), chosen).order_by(d.c.uri).limit(limit)
        with self._records.part.reading() as connection:
            return list(connection.execute(wanted).scalars())
