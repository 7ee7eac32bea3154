"""What the rows of an embedded knowledge base must fulfil, document by document."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rag.stores.database import as_fingerprint, read_generation, read_meta, text_hash
from rag.types import Fingerprint

# float32 vectors of unit length are off by less than 1e-6; embedders that round lose 1e-4.
_OFF = 1e-3

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


@dataclass(frozen=True, slots=True)
class BadVector:
    chunk_id: int
    ordinal: int
    why: str


@dataclass(frozen=True, slots=True)
class Examined:
    """One document row. `faults` make it useless; bad vectors alone can be made again."""

    key: int
    name: str
    uri: str
    visible: bool
    chunk_ids: tuple[int, ...]
    faults: tuple[tuple[int | None, str], ...]  # the chunk's ordinal, what is wrong
    bad_vectors: tuple[BadVector, ...]


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
        faults = list(row_faults(text, count, chunks))
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


def row_faults(
    text: object,
    count: int,
    chunks: Sequence[tuple[Any, ...]],
    digest_of: Callable[[str], bytes] = text_hash,
) -> Iterator[tuple[int | None, str]]:
    """What is wrong with a document of `count` chunks: the chunk's ordinal, if it is about one.

    Of a chunk: id, ordinal, start, end, text, context, digest of its text, and more.
    """
    if not isinstance(text, str):
        yield None, "has no readable text"
        return
    if [chunk[1] for chunk in chunks] != list(range(count)):
        yield None, f"should have chunks 0 to {count - 1} and has {_few([c[1] for c in chunks])}"
    for _, ordinal, start, end, piece, context, digest, *_ in chunks:
        if not isinstance(piece, str) or not isinstance(context, str):
            yield ordinal, "has no readable text"
        elif text[start:end] != piece:
            yield ordinal, f"is not found at characters {start} to {end} of the document's text"
        elif digest_of(f"{context}\n{piece}" if context else piece) != digest:
            yield ordinal, "does not have the text that it was embedded for"


def _few(numbers: list[int]) -> str:
    if not numbers:
        return "none"
    shown = ", ".join(map(str, numbers[:5]))
    return f"{len(numbers)} ({shown}{', ...' if len(numbers) > 5 else ''})"


def _bad_vectors(chunks: list[tuple], fingerprint: Fingerprint) -> Iterator[BadVector]:  # type: ignore[type-arg]
    for chunk in chunks:
        why = vector_fault(chunk[7], chunk[8], fingerprint)
        if why:
            yield BadVector(chunk[0], chunk[1], why)


def vector_fault(blob: bytes | None, crc: int | None, fingerprint: Fingerprint) -> str:
    """Empty if the vector is what was written, and as the model's must be."""
    import numpy as np

    if blob is None:
        return "has no vector"
    if not isinstance(blob, bytes) or len(blob) != 4 * fingerprint.dimension:
        return f"has a vector of another size than {fingerprint.dimension} numbers"
    vector = np.frombuffer(blob, dtype="<f4").astype(np.float64)
    if not np.isfinite(vector).all():
        return "has a vector with numbers that are none"
    length = float(np.sqrt(vector @ vector))
    if fingerprint.normalized and abs(length - 1) > _OFF:
        return f"has a vector of length {length:.3g} instead of 1"
    if crc is not None and zlib.crc32(blob) != crc:
        return "has a vector that was changed on the disk"
    return ""
