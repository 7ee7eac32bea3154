"""Rows of the database as what they stand for, and the columns each takes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rag.errors import DamagedStoreError
from rag.types import Chunk, Document, DocumentInfo, Element

if TYPE_CHECKING:
    from rag.types import Matrix

INFO = (
    "d.id, d.uri, d.name, d.type, d.title, d.content_hash, d.settings_hash, d.size, d.tags,"
    " d.chunks, d.updated_at"
)
DOCUMENT = f"{INFO}, d.text, d.elements"
CHUNK = 'd.id, c.ordinal, c.start, c."end", c.text, c.context, c.heading, c.page, c.sheet, c.rows'


def as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def info_of(row: tuple) -> DocumentInfo:  # type: ignore[type-arg]
    return DocumentInfo(
        id=row[0],
        uri=row[1],
        name=row[2],
        type=row[3],
        title=row[4],
        content_hash=row[5],
        settings_hash=row[6],
        size=row[7],
        tags=tuple(json.loads(row[8])),
        chunks=row[9],
        updated_at=row[10],
    )


def document_of(row: tuple) -> Document:  # type: ignore[type-arg]
    info = info_of(row)
    return Document(
        id=info.id,
        uri=info.uri,
        name=info.name,
        type=info.type,
        title=info.title,
        text=row[11],
        elements=tuple(Element(e[0], e[1], e[2], tuple(e[3]), *e[4:]) for e in json.loads(row[12])),
        content_hash=info.content_hash,
        settings_hash=info.settings_hash,
        size=info.size,
        tags=info.tags,
    )


def chunk_of(row: tuple) -> Chunk:  # type: ignore[type-arg]
    return Chunk(
        document_id=row[0],
        ordinal=row[1],
        start=row[2],
        end=row[3],
        text=row[4],
        context=row[5],
        heading=tuple(json.loads(row[6])),
        page=row[7],
        sheet=row[8],
        rows=tuple((start, end, number) for start, end, number in json.loads(row[9])),
    )


def rows_of(
    db: sqlite3.Connection, visible: str, generation: int, dimension: int
) -> Iterator[tuple[Document, list[Chunk], Matrix]]:
    """The documents that `visible` says are, with their chunks and vectors.

    Raises DamagedStoreError for one that lacks some.
    """
    import numpy as np

    documents = db.execute(
        f"SELECT {DOCUMENT}, d.key FROM documents d WHERE {visible} ORDER BY d.key",
        {"generation": generation},
    )
    for row in documents:
        chunks = db.execute(
            f"SELECT {CHUNK}, v.vector FROM chunks c JOIN documents d ON d.key = c.document_key"
            " JOIN vectors v ON v.chunk_id = c.id WHERE c.document_key = ? ORDER BY c.ordinal",
            (row[13],),
        ).fetchall()
        if len(chunks) != row[9]:
            raise DamagedStoreError(
                f"{row[2]} has {len(chunks)} chunks with vectors, not {row[9]}.",
                "See what else is wrong with: rag verify",
            )
        vectors = np.frombuffer(b"".join(chunk[10] for chunk in chunks), dtype="<f4")
        matrix = vectors.astype(np.float32, copy=False).reshape(len(chunks), dimension)
        yield document_of(row), [chunk_of(chunk) for chunk in chunks], matrix
