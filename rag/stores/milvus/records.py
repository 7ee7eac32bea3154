"""Reads of what a knowledge base has in the application database."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rag.application import ApplicationDatabase
from rag.errors import NotFoundError
from rag.stores.milvus.base import Base, State, batches, recorded
from rag.stores.milvus.matching import passes
from rag.stores.milvus.rows import INFO, chunk_of, document_of, info_of
from rag.types import Chunk, Document, DocumentInfo, Filters

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["Records", "State", "batches", "recorded"]

_AT_ONCE = 500  # values in one IN
_MOST_HIDDEN = 10_000


class Records(Base):
    """The rows of one knowledge base."""

    def __init__(self, database: ApplicationDatabase, name: str) -> None:
        super().__init__(database, name)
        self.allowed = lru_cache(maxsize=64)(self._allowed)
        self.hidden = lru_cache(maxsize=4)(self._hidden)

    def on_other(self) -> None:
        self.allowed.cache_clear()
        self.hidden.cache_clear()

    # --- what is seen -------------------------------------------------------------------------

    def visible(self, generation: int | None = None) -> sa.ColumnElement[bool]:
        """Documents of a generation; None is the published one, as the same statement sees it."""
        import sqlalchemy as sa

        bases, d = self.tables.bases, self.tables.documents
        at: Any = generation
        if generation is None:
            at = sa.select(bases.c.generation).where(bases.c.id == self.base).scalar_subquery()
        return sa.and_(
            d.c.base == self.base,
            d.c.added_in <= at,
            sa.or_(d.c.removed_in.is_(None), d.c.removed_in > at),
        )

    def shown(self, generation: int, *, of_chunks: bool = False) -> sa.ColumnElement[bool]:
        """As `visible`, also for who lags behind a rollback that brought documents back since.

        `of_chunks` are reached by the chunks' ids: a sum keeps the database from its indexes on
        documents, with which it would walk all of them.
        """
        import sqlalchemy as sa

        d, before = self.tables.documents, self.tables.shown_before
        now = sa.and_(
            d.c.added_in <= generation,
            sa.or_(d.c.removed_in.is_(None), d.c.removed_in > generation),
        )
        then = sa.exists().where(
            before.c.document_key == d.c.key,
            before.c.added_in <= generation,
            before.c.removed_in > generation,
        )
        base = d.c.base + 0 if of_chunks else d.c.base
        return sa.and_(base == self.base, sa.or_(now, then))

    def infos(self, where: sa.ColumnElement[bool]) -> list[DocumentInfo]:
        import sqlalchemy as sa

        d = self.tables.documents
        wanted = sa.select(*(d.c[c] for c in INFO)).where(where).order_by(d.c.name)
        with self.part.reading() as connection:
            return [info_of(row) for row in connection.execute(wanted)]

    def documents(self, filters: Filters) -> list[DocumentInfo]:
        where = self.visible()
        if filters.documents:
            d, named = self.tables.documents, filters.documents
            where &= d.c.id.in_(named) | d.c.name.in_(named)
        infos = self.infos(where)
        if not filters:
            return infos
        suits = passes(filters)
        return [i for i in infos if suits(i.id, i.name, i.type, i.tags)]

    def document(self, document_id: str) -> Document:
        import sqlalchemy as sa

        d = self.tables.documents
        with self.part.reading() as connection:
            row = connection.execute(
                sa.select(d).where(self.visible(), d.c.id == document_id)
            ).first()
        if row is None:
            raise NotFoundError(
                f"There is no document {document_id!r} in this knowledge base.",
                "List the documents with: rag docs ls",
            )
        return document_of(row)

    def chunks(self, document_id: str) -> list[Chunk]:
        import sqlalchemy as sa

        d, c = self.tables.documents, self.tables.chunks
        wanted = (
            sa.select(c, d.c.id.label("document_id"))
            .join(d, d.c.key == c.c.document_key)
            .where(self.visible(), d.c.id == document_id)
            .order_by(c.c.ordinal)
        )
        with self.part.reading() as connection:
            return [chunk_of(row) for row in connection.execute(wanted)]

    def fetch(self, chunk_ids: Sequence[int], generation: int) -> dict[int, tuple[Chunk, str, str]]:
        import sqlalchemy as sa

        d, c = self.tables.documents, self.tables.chunks
        wanted = sa.select(
            c, d.c.id.label("document_id"), d.c.name.label("document"), d.c.title
        ).join(d, d.c.key == c.c.document_key)
        found = {}
        with self.part.reading() as connection:
            for some in batches(chunk_ids, _AT_ONCE):
                chosen = wanted.where(c.c.id.in_(some), self.shown(generation, of_chunks=True))
                for row in connection.execute(chosen):
                    found[int(row.id)] = (chunk_of(row), row.document, row.title)
        return found

    def seen(self, chunk_ids: Sequence[int], generation: int) -> set[int]:
        """Those of the chunks that belong to the generation."""
        import sqlalchemy as sa

        d, c = self.tables.documents, self.tables.chunks
        wanted = sa.select(c.c.id).join(d, d.c.key == c.c.document_key)
        found: set[int] = set()
        with self.part.reading() as connection:
            for some in batches(chunk_ids, _AT_ONCE):
                chosen = wanted.where(c.c.id.in_(some), self.shown(generation, of_chunks=True))
                found.update(connection.execute(chosen).scalars())
        return found

    def _allowed(self, filters: Filters, generation: int) -> tuple[int, ...]:
        """Keys of the documents of a generation that pass; right while nothing of it is purged."""
        import sqlalchemy as sa

        d, suits = self.tables.documents, passes(filters)
        wanted = sa.select(d.c.key, d.c.id, d.c.name, d.c.type, d.c.tags)
        with self.part.reading() as connection:
            rows = connection.execute(wanted.where(self.shown(generation)))
            return tuple(r[0] for r in rows if suits(r[1], r[2], r[3], json.loads(r[4])))

    def _hidden(
        self,
        generation: int,
        mark: str,  # noqa: ARG002 - by which the cache tells databases apart
        collection: str,
    ) -> tuple[int, ...]:
        """Keys of the documents of a collection that the generation of this mark does not show,
        among those there are now; nothing if they are very many."""
        import sqlalchemy as sa

        d = self.tables.documents
        wanted = (
            sa.select(d.c.key)
            .where(d.c.base == self.base, d.c.collection == collection)
            .where(sa.not_(self.shown(generation)))
            .limit(_MOST_HIDDEN + 1)
        )
        with self.part.reading() as connection:
            keys = tuple(connection.execute(wanted).scalars())
        return keys if len(keys) <= _MOST_HIDDEN else ()

    def ids(self, generation: int) -> list[int]:
        """The ids of all chunks of a generation."""
        import sqlalchemy as sa

        d, c = self.tables.documents, self.tables.chunks
        wanted = sa.select(c.c.id).join(d, d.c.key == c.c.document_key)
        with self.part.reading() as connection:
            return list(connection.execute(wanted.where(self.visible(generation))).scalars())

    def owners(self, chunk_ids: Sequence[int]) -> dict[int, int]:
        """The key of each chunk's document, whether it is seen or not."""
        import sqlalchemy as sa

        c = self.tables.chunks
        found: dict[int, int] = {}
        with self.part.reading() as connection:
            for some in batches(chunk_ids, _AT_ONCE):
                wanted = sa.select(c.c.id, c.c.document_key).where(c.c.id.in_(some))
                found.update((int(i), int(key)) for i, key in connection.execute(wanted))
        return found

    # --- what the keyword index asks ------------------------------------------------------------

    def removed_between(self, after: int, upto: int) -> list[int]:
        import sqlalchemy as sa

        r = self.tables.removed
        wanted = sa.select(r.c.chunk_id).where(
            r.c.base == self.base, r.c.generation > after, r.c.generation <= upto
        )
        with self.part.reading() as connection:
            return list(connection.execute(wanted).scalars())

    def texts_between(self, after: int, upto: int) -> Iterator[tuple[int, int, str, str]]:
        import sqlalchemy as sa

        d, c = self.tables.documents, self.tables.chunks
        wanted = (
            sa.select(c.c.id, c.c.document_key, c.c.context, c.c.text)
            .join(d, d.c.key == c.c.document_key)
            .where(d.c.added_in > after, self.visible(upto))
            .execution_options(yield_per=1000)
        )
        with self.part.reading() as connection:
            for row in connection.execute(wanted):
                yield row[0], row[1], row[2], row[3]
