"""What the rows of an embedded knowledge base must fulfil, document by document."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from rag.stores.embedded.database import as_fingerprint, read_generation, read_meta, text_hash
from rag.stores.soundness import BadVector, Examined, row_faults, vector_fault
from rag.types import Fingerprint

ORPHANS = (
    (
        "chunks",
        "DELETE FROM chunks WHERE document_key NOT IN (SELECT key FROM documents)",
        "SELECT count(*) FROM chunks WHERE document_key NOT IN (SELECT key FROM documents)",
    ),
    (
        "vectors",
        "DELETE FROM vectors WHERE chunk_id NOT IN (SELECT id FROM chunks)",
        "SELECT count(*) FROM vectors WHERE chunk_id NOT IN (SELECT id FROM chunks)",
    ),
)


def examine(db: sqlite3.Connection) -> Iterator[Examined]:
    """All document rows by rising key, those that are not published (any more) included."""
    generation = read_generation(db)
    published = read_meta(db, "fingerprint")
    seen: set[str] = set()
    # A database that an older program wrote lacks columns.
    numbered = "fingerprint" in _columns(db, "documents")
    model = "(SELECT value FROM fingerprints WHERE id = d.fingerprint)" if numbered else "NULL"
    crc = "v.crc" if "crc" in _columns(db, "vectors") else "NULL"
    for row in db.execute(
        "SELECT d.key, d.name, d.uri, d.text, d.chunks, d.added_in, d.removed_in,"
        f" {model} FROM documents d ORDER BY d.key"
    ):
        key, name, uri, text, count, added_in, removed_in, recorded = row
        visible = added_in <= generation and (removed_in is None or removed_in > generation)
        chunks = db.execute(
            'SELECT c.id, c.ordinal, c.start, c."end", c.text, c.context, c.text_hash,'
            f" v.vector, {crc}"
            " FROM chunks c LEFT JOIN vectors v ON v.chunk_id = c.id"
            " WHERE c.document_key = ? ORDER BY c.ordinal, c.id",
            (key,),
        ).fetchall()
        faults = list(row_faults(text, count, chunks, text_hash))
        if visible and uri in seen:
            faults.append((None, "is there twice"))
        if visible and recorded not in (None, published):
            faults.append((None, "has vectors of another model than the knowledge base"))
        if visible:
            seen.add(uri)
        fingerprint = as_fingerprint(recorded or (published if visible else None))
        bad = () if fingerprint is None else tuple(_bad_vectors(chunks, fingerprint))
        ids = tuple(chunk[0] for chunk in chunks)
        yield Examined(key, str(name), str(uri), visible, ids, tuple(faults), bad)


def _columns(db: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in db.execute(f"PRAGMA table_info({table})")}


def _bad_vectors(chunks: list[tuple], fingerprint: Fingerprint) -> Iterator[BadVector]:  # type: ignore[type-arg]
    for chunk in chunks:
        why = vector_fault(chunk[7], chunk[8], fingerprint)
        if why:
            yield BadVector(chunk[0], chunk[1], why)
