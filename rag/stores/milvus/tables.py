"""The tables of knowledge bases whose vectors are in Milvus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlalchemy as sa

_REMOVED = ("base", "generation", "chunk_id")


@dataclass(frozen=True, slots=True)
class Tables:
    """`waiting`: vectors Milvus does not have yet, in `dead`: rows of Milvus that must go.

    `removed`: which chunks went in which generation, for the keyword indexes to follow.
    `generations`: all that those indexes may be of, and which of them can be brought back. A random
    mark tells them from others, as a database that was restored counts them anew.
    `shown_before`: when documents that came back were there before, for readers that lag behind.
    `collections`: those that Milvus may have.
    """

    bases: sa.Table
    documents: sa.Table
    chunks: sa.Table
    waiting: sa.Table
    dead: sa.Table
    removed: sa.Table
    generations: sa.Table
    shown_before: sa.Table
    collections: sa.Table


def declare(metadata: sa.MetaData) -> Tables:
    """Text that may hold anything is UTF-8 in binary columns: PostgreSQL's text takes no NUL."""
    import sqlalchemy as sa

    class Utf8(sa.types.TypeDecorator[str]):
        impl = sa.LargeBinary
        cache_ok = True

        def process_bind_param(self, value: str | None, _: sa.Dialect) -> bytes | None:
            return None if value is None else value.encode("utf-8", "surrogatepass")

        def process_result_value(self, value: bytes | None, _: sa.Dialect) -> str | None:
            return None if value is None else bytes(value).decode("utf-8", "surrogatepass")

    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")

    def key(name: str) -> sa.Column[int]:
        return sa.Column(name, number, primary_key=True, autoincrement=True)

    def integer(name: str, *, index: bool = False) -> sa.Column[int]:
        return sa.Column(name, number, nullable=False, index=index)

    def text(name: str, *, nullable: bool = False) -> sa.Column[str]:
        return sa.Column(name, Utf8, nullable=nullable)

    bases = sa.Table(
        "store_bases",
        metadata,
        key("id"),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("identity", sa.String(16), nullable=False),
        integer("generation"),
        integer("purged"),
        integer("guarantee"),
        sa.Column("fingerprint", sa.Text),
        sa.Column("staged_fingerprint", sa.Text),
        sqlite_autoincrement=True,
    )
    documents = sa.Table(
        "store_documents",
        metadata,
        key("key"),
        integer("base"),
        *(text(n) for n in ("id", "uri", "name", "type", "title", "text")),
        *(sa.Column(n, sa.Text, nullable=False) for n in ("elements", "tags")),
        text("content_hash"),
        text("settings_hash"),
        integer("size"),
        integer("chunks"),
        sa.Column("updated_at", sa.String(32), nullable=False),
        sa.Column("collection", sa.String(64), nullable=False),
        integer("added_in"),
        sa.Column("removed_in", number),
        sa.Index("store_documents_uri", "base", "uri"),
        sa.Index("store_documents_id", "base", "id"),
        sa.Index("store_documents_content", "base", "content_hash"),
        sa.Index("store_documents_name", "base", "name"),
        sa.Index("store_documents_added", "base", "added_in"),
        sa.Index("store_documents_removed", "base", "removed_in"),
        sqlite_autoincrement=True,
    )
    chunks = sa.Table(
        "store_chunks",
        metadata,
        key("id"),
        *(integer(n) for n in ("document_key", "ordinal", "start", "end")),
        text("text"),
        text("context"),
        sa.Column("heading", sa.Text, nullable=False),
        sa.Column("page", number),
        text("sheet", nullable=True),
        sa.Column("rows", sa.Text, nullable=False),
        sa.Column("text_hash", sa.LargeBinary, nullable=False, index=True),
        integer("crc"),  # of the vector, by which a changed one is noticed
        sa.Index("store_chunks_document", "document_key", "ordinal"),
        sqlite_autoincrement=True,
    )
    waiting = sa.Table(
        "store_waiting",
        metadata,
        sa.Column("chunk_id", number, primary_key=True, autoincrement=False),
        integer("base"),
        integer("document_key", index=True),
        integer("added_in"),
        sa.Column("vector", sa.LargeBinary, nullable=False),
        sa.Index("store_waiting_base", "base", "chunk_id"),
    )
    dead = sa.Table(
        "store_dead",
        metadata,
        sa.Column("chunk_id", number, primary_key=True, autoincrement=False),
        integer("base", index=True),
        sa.Column("collection", sa.String(64), nullable=False),
    )
    removed = sa.Table(
        "store_removed",
        metadata,
        *(sa.Column(n, number, primary_key=True, autoincrement=False) for n in _REMOVED),
    )
    generations = sa.Table(
        "store_generations",
        metadata,
        sa.Column("base", number, primary_key=True, autoincrement=False),
        sa.Column("generation", number, primary_key=True, autoincrement=False),
        sa.Column("mark", sa.String(16), nullable=False),
        sa.Column("published_at", sa.String(32), nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        integer("documents"),
        integer("chunks"),
        sa.Column("restores", number),
        integer("is_kept"),
    )
    shown_before = sa.Table(
        "store_shown_before",
        metadata,
        sa.Column("document_key", number, primary_key=True, autoincrement=False),
        sa.Column("added_in", number, primary_key=True, autoincrement=False),
        integer("removed_in"),
        integer("base"),
        sa.Index("store_shown_before_removed", "base", "removed_in"),
    )
    collections = sa.Table(
        "store_collections",
        metadata,
        sa.Column("name", sa.String(64), primary_key=True),
        integer("base", index=True),
    )
    return Tables(
        *(bases, documents, chunks, waiting, dead, removed, generations, shown_before, collections)
    )
