"""Reads of what a knowledge base has in the application database."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from rag.application import ApplicationDatabase
from rag.application.database import Part
from rag.errors import NotFoundError
from rag.stores.milvus.matching import passes
from rag.stores.milvus.rows import INFO, chunk_of, document_of, info_of
from rag.stores.milvus.tables import Tables, declare
from rag.types import Chunk, Document, DocumentInfo, Filters, Fingerprint

if TYPE_CHECKING:
    import sqlalchemy as sa

T = TypeVar("T")

_AT_ONCE = 500  # values in one IN


@dataclass(frozen=True, slots=True)
class State:
    """What is published. `vectors_since` is the first generation with this fingerprint.

    `guarantee` is the time, by Milvus's clock, of the last write that belongs to it; `mark` tells
    the generation from one of the same number in a database that was restored since.
    """

    generation: int
    fingerprint: Fingerprint | None
    vectors_since: int
    guarantee: int
    mark: str


class Records:
    """The rows of one knowledge base. `identity` tells it from any other there ever was."""

    def __init__(self, database: ApplicationDatabase, name: str) -> None:
        self.part: Part[Tables] = database.part(declare)
        self.tables = self.part.tables
        self.base, self.identity = self._found_or_made(name)
        self.allowed = lru_cache(maxsize=64)(self._allowed)

    def _found_or_made(self, name: str) -> tuple[int, str]:
        import sqlalchemy as sa

        bases = self.tables.bases
        find = sa.select(bases.c.id, bases.c.identity).where(bases.c.name == name)
        with self.part.reading() as connection:
            row = connection.execute(find).first()
        if row is None:
            make = sa.text(
                "INSERT INTO store_bases"
                " (name, identity, generation, vectors_since, purged, guarantee)"
                " VALUES (:name, :identity, 0, 0, 0, 0) ON CONFLICT DO NOTHING"
            )
            with self.part.writing() as connection:
                connection.execute(make, {"name": name, "identity": secrets.token_hex(8)})
                row = connection.execute(find).one()
        return int(row.id), str(row.identity)

    def collection(self, fingerprint: str) -> str:
        """The name in Milvus for vectors of this recorded fingerprint."""
        import hashlib

        return f"{self.prefix}{hashlib.sha256(fingerprint.encode()).hexdigest()[:12]}"

    @property
    def prefix(self) -> str:
        return f"rag_{self.identity}_"

    # --- what is seen -------------------------------------------------------------------------

    def state(self) -> State:
        import sqlalchemy as sa

        bases, g = self.tables.bases, self.tables.generations
        wanted = (
            sa.select(bases, sa.func.coalesce(g.c.mark, "").label("mark"))
            .outerjoin(g, sa.and_(g.c.base == bases.c.id, g.c.generation == bases.c.generation))
            .where(bases.c.id == self.base)
        )
        with self.part.reading() as connection:
            row = connection.execute(wanted).one()
        fingerprint = (
            None if row.fingerprint is None else Fingerprint(**json.loads(row.fingerprint))
        )
        return State(row.generation, fingerprint, row.vectors_since, row.guarantee, row.mark)

    def mark(self, generation: int) -> str:
        """Empty for a generation that was not published."""
        import sqlalchemy as sa

        g = self.tables.generations
        wanted = sa.select(g.c.mark).where(g.c.base == self.base, g.c.generation == generation)
        with self.part.reading() as connection:
            return str(connection.execute(wanted).scalar_one_or_none() or "")

    def generation(self) -> int:
        return int(self.row("generation")[0])

    def purged(self) -> int:
        """Generations before this one have lost rows."""
        return int(self.row("purged")[0])

    def row(self, *columns: str) -> tuple[Any, ...]:
        import sqlalchemy as sa

        bases = self.tables.bases
        wanted = sa.select(*(bases.c[c] for c in columns)).where(bases.c.id == self.base)
        with self.part.reading() as connection:
            return tuple(connection.execute(wanted).one())

    def visible(
        self, generation: int | None = None, *, of_chunks: bool = False
    ) -> sa.ColumnElement[bool]:
        """Documents of a generation; None is the published one, as the same statement sees it.

        `of_chunks` are reached by the chunks' ids: a sum keeps the database from its indexes on
        documents, with which it would walk all of them.
        """
        import sqlalchemy as sa

        bases, d = self.tables.bases, self.tables.documents
        at: Any = generation
        if generation is None:
            at = sa.select(bases.c.generation).where(bases.c.id == self.base).scalar_subquery()
        return sa.and_(
            (d.c.base + 0 if of_chunks else d.c.base) == self.base,
            d.c.added_in <= at,
            sa.or_(d.c.removed_in.is_(None), d.c.removed_in > at),
        )

    def infos(self, where: sa.ColumnElement[bool]) -> list[DocumentInfo]:
        import sqlalchemy as sa

        d = self.tables.documents
        wanted = sa.select(*(d.c[c] for c in INFO)).where(where).order_by(d.c.name)
        with self.part.reading() as connection:
            return [info_of(row) for row in connection.execute(wanted)]

    def documents(self, filters: Filters) -> list[DocumentInfo]:
        infos = self.infos(self.visible())
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
                chosen = wanted.where(c.c.id.in_(some), self.visible(generation, of_chunks=True))
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
                chosen = wanted.where(c.c.id.in_(some), self.visible(generation, of_chunks=True))
                found.update(connection.execute(chosen).scalars())
        return found

    def shown(self, generation: int) -> list[int]:
        """The ids of all chunks of a generation."""
        import sqlalchemy as sa

        d, c = self.tables.documents, self.tables.chunks
        wanted = sa.select(c.c.id).join(d, d.c.key == c.c.document_key)
        with self.part.reading() as connection:
            return list(connection.execute(wanted.where(self.visible(generation))).scalars())

    def _allowed(self, filters: Filters, generation: int) -> tuple[int, ...]:
        """Keys of the documents of a generation that pass; right while nothing of it is purged."""
        import sqlalchemy as sa

        d, suits = self.tables.documents, passes(filters)
        wanted = sa.select(d.c.key, d.c.id, d.c.name, d.c.type, d.c.tags)
        with self.part.reading() as connection:
            rows = connection.execute(wanted.where(self.visible(generation)))
            return tuple(r[0] for r in rows if suits(r[1], r[2], r[3], json.loads(r[4])))

    def gone(self, generation: int) -> list[int]:
        """Keys of documents that are no longer seen, whose vectors may still be in Milvus."""
        import sqlalchemy as sa

        d = self.tables.documents
        wanted = sa.select(d.c.key).where(d.c.base == self.base, d.c.removed_in <= generation)
        with self.part.reading() as connection:
            return list(connection.execute(wanted).scalars())

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


def knowledge_bases(database: ApplicationDatabase) -> list[str]:
    """The names of those whose vectors are in Milvus, sorted."""
    import sqlalchemy as sa

    part = database.part(declare)
    with part.reading() as connection:
        names = connection.execute(sa.select(part.tables.bases.c.name)).scalars()
        return sorted(names)


def batches(values: Iterable[T], size: int) -> Iterator[list[T]]:
    items = list(values)
    for start in range(0, len(items), size):
        yield items[start : start + size]


def recorded(fingerprint: Fingerprint) -> str:
    return json.dumps(asdict(fingerprint))
