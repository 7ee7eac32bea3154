"""One knowledge base among those of the application database: which it is, what is published."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from rag.application import ApplicationDatabase
from rag.application.database import Part
from rag.stores.milvus.tables import Tables, declare
from rag.types import Fingerprint

T = TypeVar("T")

DOOMED = "~"  # begins the name of what is being deleted


@dataclass(frozen=True, slots=True)
class State:
    """What is published.

    `identity` tells the knowledge base from any other there ever was. `guarantee` is the time, by
    Milvus's clock, of the last write that belongs to it; `mark` tells the generation from one of
    the same number in a database that was restored since.
    """

    identity: str
    generation: int
    fingerprint: Fingerprint | None
    guarantee: int
    mark: str


_NOTHING = State("", 0, None, 0, "")


class Base:
    """The knowledge base `name`, which comes into being with its first writer.

    Until then there is nothing to read; `base` is 0, `identity` empty.
    """

    def __init__(self, database: ApplicationDatabase, name: str) -> None:
        self.part: Part[Tables] = database.part(declare)
        self.name = name
        self._known = (0, "")

    @property
    def tables(self) -> Tables:
        return self.part.tables

    @property
    def base(self) -> int:
        return self._known[0] or self.follow()

    @property
    def identity(self) -> str:
        return self._known[1] if self.base else ""

    def follow(self) -> int:
        """Looks for it anew, for it may have been deleted, and made again; the id of it."""
        import sqlalchemy as sa

        bases = self.tables.bases
        wanted = sa.select(bases.c.id, bases.c.identity).where(bases.c.name == self.name)
        with self.part.reading() as connection:
            row = connection.execute(wanted).first()
        return self._remember(row)

    def _remember(self, row: Any) -> int:
        known = (0, "") if row is None else (int(row.id), str(row.identity))
        if known != self._known:
            self._known = known
            self.on_other()
        return known[0]

    def on_other(self) -> None:
        """Called when another knowledge base has the name."""

    def make(self) -> int:
        """Makes it if there is none; the id of it."""
        import sqlalchemy as sa

        if not self.follow():
            make = sa.text(
                "INSERT INTO store_bases (name, identity, generation, purged, guarantee)"
                " VALUES (:name, :identity, 0, 0, 0) ON CONFLICT DO NOTHING"
            )
            with self.part.writing() as connection:
                connection.execute(make, {"name": self.name, "identity": secrets.token_hex(8)})
        return self.follow()

    def collection(self, fingerprint: str) -> str:
        """The name in Milvus for vectors of this recorded fingerprint."""
        import hashlib

        return f"{self.prefix}{hashlib.sha256(fingerprint.encode()).hexdigest()[:12]}"

    @property
    def prefix(self) -> str:
        return collection_prefix(self.identity)

    # --- what is published --------------------------------------------------------------------

    def state(self) -> State:
        """Of the knowledge base that has the name now."""
        import sqlalchemy as sa

        bases, g = self.tables.bases, self.tables.generations
        wanted = (
            sa.select(bases, sa.func.coalesce(g.c.mark, "").label("mark"))
            .outerjoin(g, sa.and_(g.c.base == bases.c.id, g.c.generation == bases.c.generation))
            .where(bases.c.name == self.name)
        )
        with self.part.reading() as connection:
            row = connection.execute(wanted).first()
        self._remember(row)
        if row is None:
            return _NOTHING
        fingerprint = None if row.fingerprint is None else as_fingerprint(row.fingerprint)
        return State(row.identity, row.generation, fingerprint, row.guarantee, row.mark)

    def mark(self, generation: int) -> str:
        """Empty for 0, and no index's for another one that is not known (any more)."""
        import sqlalchemy as sa

        g = self.tables.generations
        wanted = sa.select(g.c.mark).where(g.c.base == self.base, g.c.generation == generation)
        with self.part.reading() as connection:
            mark = connection.execute(wanted).scalar_one_or_none()
        return str(mark or ("unknown" if generation else ""))

    def generation(self) -> int:
        row = self.row("generation")
        return int(row[0]) if row else 0

    def counts(self, generation: int) -> tuple[int, int]:
        """Documents and chunks of a generation that is known."""
        import sqlalchemy as sa

        g = self.tables.generations
        wanted = sa.select(g.c.documents, g.c.chunks).where(
            g.c.base == self.base, g.c.generation == generation
        )
        with self.part.reading() as connection:
            documents, chunks = connection.execute(wanted).first() or (0, 0)
        return int(documents), int(chunks)

    def is_outdated(self, generation: int) -> bool:
        """Whether rows that it shows may be gone."""
        row = self.row("purged")
        return not row or int(row[0]) > generation

    def row(self, *columns: str) -> tuple[Any, ...]:
        """Empty if there is no such knowledge base (any more)."""
        import sqlalchemy as sa

        bases = self.tables.bases
        wanted = sa.select(*(bases.c[c] for c in columns)).where(bases.c.id == self.base)
        with self.part.reading() as connection:
            return tuple(connection.execute(wanted).first() or ())


def knowledge_bases(database: ApplicationDatabase) -> list[str]:
    """The names of those whose vectors are in Milvus, sorted: published, or being filled."""
    import sqlalchemy as sa

    part = database.part(declare)
    bases, d = part.tables.bases, part.tables.documents
    has_some = sa.exists().where(d.c.base == bases.c.id)
    wanted = sa.select(bases.c.name).where(
        sa.not_(bases.c.name.startswith(DOOMED)), sa.or_(bases.c.generation > 0, has_some)
    )
    with part.reading() as connection:
        return sorted(connection.execute(wanted).scalars())


def collection_prefix(identity: str) -> str:
    return f"rag_{identity}_"


def batches(values: Iterable[T], size: int) -> Iterator[list[T]]:
    items = list(values)
    for start in range(0, len(items), size):
        yield items[start : start + size]


def recorded(fingerprint: Fingerprint) -> str:
    return json.dumps(asdict(fingerprint))


def as_fingerprint(value: str) -> Fingerprint:
    return Fingerprint(**json.loads(value))
