"""Mends an embedded knowledge base, embedding nothing that is still known.

Rows are mended in one transaction, a damaged database in a copy that takes its place at the end:
whenever this is interrupted, what was there is still there. Readers may be at work meanwhile.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

from rag.errors import DamagedStoreError, NotFoundError
from rag.stores.embedded import EmbeddedStore
from rag.stores.embedded.database import (
    Database,
    as_fingerprint,
    read_generation,
    read_meta,
    write_meta,
)
from rag.stores.embedded.examining import ORPHANS, examine
from rag.stores.embedded.generations import delete_document
from rag.stores.embedded.salvage import salvage
from rag.stores.embedded.verify import (
    DATABASE,
    Rows,
    verify_keyword_index,
    verify_rows,
    verify_vector_index,
)
from rag.stores.files import exclusive, replace_durably
from rag.stores.indexes.keywords import KeywordIndex
from rag.stores.indexes.vectors import base_files
from rag.stores.soundness import Embed, Examined, Repaired, findings_of, vector_fault
from rag.types import Fingerprint

if TYPE_CHECKING:
    pass


def repair(folder: Path, *, embed: Embed) -> Repaired:
    """`embed` is asked for the vectors of texts that no vector is left of, with the model they
    are of, and only then.

    Raises NotFoundError; BusyError while another process writes; DamagedStoreError, with nothing
    changed, if nothing of the database can be read.
    """
    path = folder / DATABASE
    if not path.exists():
        raise NotFoundError(
            f"There is no knowledge base in {folder}.", "Make one with: rag ingest PATH"
        )
    repaired = Repaired()
    with (
        exclusive(folder / "write.lock", "writing to this knowledge base"),
        exclusive(folder / "caches.lock", "bringing the indexes up to date"),
    ):
        _take_back(path)
        if verify_rows(path).identity == "":
            _salvage(folder, embed, repaired)
        else:
            _mend(path, embed, repaired)
        _drop_bad_indexes(folder, verify_rows(path), repaired)
    with closing(EmbeddedStore(folder)) as store:
        store.refresh()
    return repaired


def _salvage(folder: Path, embed: Embed, repaired: Repaired) -> None:
    path = folder / DATABASE
    workplace = folder / "repairing"
    shutil.rmtree(workplace, ignore_errors=True)
    workplace.mkdir()
    try:
        new, lost = salvage(path, workplace)
        _mend(new, embed, repaired)
        if verify_rows(new).findings:
            raise DamagedStoreError(
                f"What can be read from the database {path} makes no sound knowledge base.",
                "Restore a backup with: rag restore FILE. Or delete the folder and ingest again.",
            )
        with closing(sqlite3.connect(new)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        repaired.kept = _exchange(new, path)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    repaired.read_again[:0] = lost
    repaired.done.insert(
        0,
        "The database was damaged: what could be read is in a new one; the damaged one is kept as"
        f" {repaired.kept.name}.",
    )
    if lost:
        repaired.done.insert(1, f"{len(lost)} documents could not be read from it at all.")


def _exchange(new: Path, path: Path) -> Path:
    """The damaged database gets a second name before the new one takes its first."""
    number = 0
    while (kept := path.with_name(f"{path.name}.damaged{f'.{number}' if number else ''}")).exists():
        number += 1
    kept.hardlink_to(path)
    log = path.with_name(f"{path.name}-wal")
    if log.exists():  # or else its pages would be taken for the new database's
        log.replace(kept.with_name(f"{kept.name}-wal"))
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    replace_durably(new, path)
    return kept


def _take_back(path: Path) -> None:
    """What one that was killed between the two steps of the exchange had put aside."""
    for kept in list(path.parent.glob(f"{path.name}.damaged*")):
        if not kept.name.endswith("-wal") and kept.samefile(path):
            aside, log = kept.with_name(f"{kept.name}-wal"), path.with_name(f"{path.name}-wal")
            if aside.exists() and not (log.exists() and log.stat().st_size):
                path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
                aside.replace(log)
            kept.unlink()


# --- rows -------------------------------------------------------------------------------------


def _mend(path: Path, embed: Embed, repaired: Repaired) -> None:
    """All in one transaction, as a new generation if what readers see was touched."""
    Database(path).close()  # brings an older program's tables up to date
    with closing(sqlite3.connect(path, timeout=30)) as db:
        db.text_factory = lambda data: data.decode("utf-8", "replace")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN IMMEDIATE")
        with db:
            unsound = [e for e in examine(db) if e.faults or e.bad_vectors]
            useless = [e for e in unsound if e.faults]
            damaged = [e for e in unsound if not e.faults]
            touched = [e for e in unsound if e.visible]
            gone = [i for e in useless if e.visible for i in e.chunk_ids]
            for examined in useless:
                _drop(db, examined, repaired)
            for examined in damaged:
                _new_vectors(db, examined, embed, repaired)
            for table, delete, _ in ORPHANS:
                dropped = db.execute(delete).rowcount
                if dropped:
                    repaired.done.append(f"Deleted {dropped} rows of {table} without an owner.")
            if touched:
                _publish(db, gone)


def _drop(db: sqlite3.Connection, examined: Examined, repaired: Repaired) -> None:
    why = next(findings_of(examined)).what
    repaired.done.append(f"{why} The document was taken out, for the next ingest to read.")
    if examined.visible:
        repaired.read_again.append(examined.name)
    db.execute("DELETE FROM shown_before WHERE document_key = ?", (examined.key,))
    delete_document(db, examined.key)


def _new_vectors(
    db: sqlite3.Connection, examined: Examined, embed: Embed, repaired: Repaired
) -> None:
    """From a chunk of the same text and model, else from the model."""
    value = db.execute(
        "SELECT coalesce((SELECT f.value FROM fingerprints f WHERE f.id = d.fingerprint), ?)"
        " FROM documents d WHERE d.key = ?",
        (read_meta(db, "fingerprint"), examined.key),
    ).fetchone()[0]
    fingerprint = as_fingerprint(value)
    assert fingerprint is not None  # or else the vectors would not have been found bad
    texts: dict[int, str] = {}
    for bad in examined.bad_vectors:
        twin = _twin(db, bad.chunk_id, fingerprint)
        if twin is None:
            texts[bad.chunk_id] = _embedded_text(db, bad.chunk_id)
        else:
            _set_vector(db, bad.chunk_id, twin)
    if texts:
        vectors = embed(fingerprint, list(texts.values()))
        repaired.embedded += len(texts)
        for chunk_id, vector in zip(texts, vectors, strict=True):
            _set_vector(db, chunk_id, vector.astype("<f4").tobytes())
    repaired.done.append(
        f"{len(examined.bad_vectors)} damaged vectors of {examined.name} were made again"
        f" ({len(texts)} embedded)."
    )


def _twin(db: sqlite3.Connection, chunk_id: int, fingerprint: Fingerprint) -> bytes | None:
    rows = db.execute(
        "SELECT v.vector, v.crc FROM chunks mine JOIN documents m ON m.key = mine.document_key"
        " JOIN chunks c ON c.text_hash = mine.text_hash AND c.id <> mine.id"
        " JOIN documents d ON d.key = c.document_key AND d.fingerprint = m.fingerprint"
        " JOIN vectors v ON v.chunk_id = c.id WHERE mine.id = ?",
        (chunk_id,),
    )
    return next((blob for blob, crc in rows if not vector_fault(blob, crc, fingerprint)), None)


def _embedded_text(db: sqlite3.Connection, chunk_id: int) -> str:
    context, text = db.execute(
        "SELECT context, text FROM chunks WHERE id = ?", (chunk_id,)
    ).fetchone()
    return f"{context}\n{text}" if context else str(text)


def _set_vector(db: sqlite3.Connection, chunk_id: int, blob: bytes) -> None:
    db.execute(
        "INSERT OR REPLACE INTO vectors (chunk_id, vector, crc) VALUES (?,?,?)",
        (chunk_id, blob, crc32(blob)),
    )


def _publish(db: sqlite3.Connection, gone: Sequence[int]) -> None:
    """As a new generation, which every index of vectors is made anew for. What an ingest that died
    had written for this one goes on waiting for the next; its removals are decided anew anyway."""
    new = read_generation(db) + 1
    db.execute("UPDATE documents SET added_in = added_in + 1 WHERE added_in >= ?", (new,))
    db.execute("UPDATE documents SET removed_in = NULL WHERE removed_in >= ?", (new,))
    db.executemany(
        "INSERT INTO removed (generation, chunk_id) VALUES (?,?)", [(new, i) for i in gone]
    )
    db.execute(
        "INSERT OR REPLACE INTO generations (number, published_at, fingerprint, documents, chunks)"
        " SELECT ?, strftime('%Y-%m-%dT%H:%M:%S+00:00', 'now'), max(fingerprint), count(*),"
        " sum(chunks) FROM documents WHERE added_in < ? AND removed_in IS NULL"
        " HAVING count(*) > 0",
        (new, new),
    )
    write_meta(db, "generation", str(new))
    write_meta(db, "vectors_since", str(new))


# --- indexes ----------------------------------------------------------------------------------


def _drop_bad_indexes(folder: Path, rows: Rows, repaired: Repaired) -> None:
    """Opening the knowledge base makes them again."""
    dense, _ = verify_vector_index(folder, rows)
    if dense:
        for path, _ in base_files(folder):
            path.unlink(missing_ok=True)
        repaired.done.append(f"{dense[0].what} It was made again from the database.")
    keyword, _ = verify_keyword_index(folder, rows)
    if keyword:
        KeywordIndex(folder, rows.identity).start_anew()
        repaired.done.append(f"{keyword[0].what} It was made again from the database.")
