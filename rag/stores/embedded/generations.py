"""Generations of an embedded knowledge base: what was published when, bringing one back, letting
old ones go.

A generation shows the documents whose rows it sees (database.py), so keeping one costs only the
rows that came or went since. All functions work on a writer's connection, under its lock.
"""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime

from rag.stores.embedded.database import read_generation, read_meta, write_meta
from rag.stores.managed import Freed, Generation, chosen
from rag.types import Fingerprint

_PAGES_AT_ONCE = 4_000
_WAIT_FOR_READERS = 1_000  # milliseconds


def fingerprint_id(db: sqlite3.Connection, fingerprint: str) -> int:
    """The number by which rows name a fingerprint."""
    db.execute("INSERT OR IGNORE INTO fingerprints (value) VALUES (?)", (fingerprint,))
    row = db.execute("SELECT id FROM fingerprints WHERE value = ?", (fingerprint,)).fetchone()
    return int(row[0])


def record(
    db: sqlite3.Connection, number: int, fingerprint: str, restores: int | None = None
) -> None:
    """Makes `number` the published generation, within the caller's transaction.

    Costs as much as what came and went: the counts are those of the generation before, changed.
    """
    db.execute(
        "INSERT INTO removed (generation, chunk_id)"
        " SELECT :number, c.id FROM documents d JOIN chunks c ON c.document_key = d.key"
        " WHERE d.removed_in = :number",
        {"number": number},
    )
    db.execute(
        "INSERT INTO generations (number, published_at, fingerprint, documents, chunks, restores)"
        " SELECT :number, :now, :fingerprint,"
        " came.documents - went.documents + coalesce(before.documents, 0),"
        " came.chunks - went.chunks + coalesce(before.chunks, 0), :restores"
        " FROM (SELECT count(*) AS documents, coalesce(sum(chunks), 0) AS chunks"
        "       FROM documents WHERE added_in = :number) AS came,"
        " (SELECT count(*) AS documents, coalesce(sum(chunks), 0) AS chunks"
        "       FROM documents WHERE removed_in = :number) AS went"
        " LEFT JOIN generations AS before ON before.number = :number - 1",
        {
            "number": number,
            "now": datetime.now(UTC).isoformat(timespec="seconds"),
            "fingerprint": fingerprint_id(db, fingerprint),
            "restores": restores,
        },
    )
    if read_meta(db, "fingerprint") != fingerprint:
        write_meta(db, "fingerprint", fingerprint)
        write_meta(db, "vectors_since", str(number))
    write_meta(db, "generation", str(number))


def listed(db: sqlite3.Connection) -> list[Generation]:
    """Those that are kept, newest first; the first is the published one."""
    current = read_generation(db)
    rows = db.execute(
        "SELECT g.number, g.published_at, g.documents, g.chunks, f.value, g.restores"
        " FROM generations g JOIN fingerprints f ON f.id = g.fingerprint ORDER BY g.number DESC"
    )
    return [
        Generation(
            number=number,
            published_at=published_at,
            documents=documents,
            chunks=chunks,
            fingerprint=Fingerprint(**json.loads(value)),
            restores=restores,
            current=number == current,
        )
        for number, published_at, documents, chunks, value, restores in rows
    ]


def roll_back(db: sqlite3.Connection, generation: int | None) -> int:
    """Publishes anew what `generation` showed; by default the one before the published one.

    What a writer that died had put stays staged for the generation after. Raises NotFoundError for
    a generation that is not kept, InputError for the published one.
    """
    db.execute("PRAGMA synchronous = FULL")
    try:
        with db:
            db.execute("BEGIN IMMEDIATE")
            wanted = chosen(listed(db), generation)
            number = read_generation(db) + 1
            _show_again(db, wanted.number, number)
            fingerprint = db.execute(
                "SELECT f.value FROM generations g JOIN fingerprints f ON f.id = g.fingerprint"
                " WHERE g.number = ?",
                (wanted.number,),
            ).fetchone()[0]
            record(db, number, fingerprint, wanted.number)
    finally:
        db.execute("PRAGMA synchronous = NORMAL")
    return number


def _show_again(db: sqlite3.Connection, wanted: int, number: int) -> None:
    """Rows that `wanted` showed come in generation `number`, those it did not show go in it."""
    values = {"wanted": wanted, "number": number}
    # A writer's that died: its removals are decided anew, its additions move to what comes next.
    db.execute("UPDATE documents SET removed_in = NULL WHERE removed_in = :number", values)
    db.execute("UPDATE documents SET added_in = added_in + 1 WHERE added_in = :number", values)
    shown = (
        "EXISTS (SELECT 1 FROM shown_before s WHERE s.document_key = documents.key"
        " AND s.added_in <= :wanted AND s.removed_in > :wanted)"
    )
    again = f"removed_in > :wanted AND (added_in <= :wanted OR {shown})"
    came_since = "added_in > :wanted AND added_in < :number AND removed_in IS NULL"
    db.execute(
        f"UPDATE documents SET removed_in = :number WHERE {came_since} AND NOT {shown}", values
    )
    returning = f"{again} AND removed_in < :number"
    db.execute(
        "INSERT INTO shown_before (document_key, added_in, removed_in)"
        f" SELECT key, added_in, removed_in FROM documents WHERE {returning}",
        values,
    )
    db.execute(
        f"UPDATE documents SET added_in = :number, removed_in = NULL WHERE {returning}", values
    )


def prune(db: sqlite3.Connection, keep: int) -> Freed:
    """Forgets all generations but the published one and `keep` before it, and what only they show.

    Document by document, each a transaction: a process that dies has done a part of it.
    """
    kept = [number for (number,) in db.execute("SELECT number FROM generations ORDER BY number")]
    if not kept:
        return Freed()
    oldest = kept[-(keep + 1) :][0]
    gone = db.execute("SELECT key FROM documents WHERE removed_in <= ?", (oldest,)).fetchall()
    with db:
        db.execute("DELETE FROM generations WHERE number < ?", (oldest,))
        db.execute("DELETE FROM shown_before WHERE removed_in <= ?", (oldest,))
    chunks = 0
    for (key,) in gone:
        with db:
            chunks += delete_document(db, key)
    return Freed(generations=kept.index(oldest), documents=len(gone), chunks=chunks)


def delete_document(db: sqlite3.Connection, key: int) -> int:
    """Deletes a row with its chunks and vectors, within the caller's transaction; counts chunks."""
    db.execute(
        "DELETE FROM vectors WHERE chunk_id IN (SELECT id FROM chunks WHERE document_key = ?)",
        (key,),
    )
    chunks = db.execute("DELETE FROM chunks WHERE document_key = ?", (key,)).rowcount
    db.execute("DELETE FROM documents WHERE key = ?", (key,))
    return chunks


def forget_removals(db: sqlite3.Connection, upto: int) -> None:
    """Forgets what was removed up to a generation that all indexes on disk have reached."""
    if upto <= int(read_meta(db, "removals_since") or 0):
        return
    with db:
        write_meta(db, "removals_since", str(upto))
        db.execute("DELETE FROM removed WHERE generation <= ?", (upto,))


def shrink(db: sqlite3.Connection) -> None:
    """Gives free pages back to the disk, a few at a time: readers and writers go on in between.

    A file of a program that did not prepare for this is written anew, once.
    """
    if db.execute("PRAGMA auto_vacuum").fetchone()[0] != 2:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("VACUUM")
    while db.execute("PRAGMA freelist_count").fetchone()[0]:
        db.execute(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})").fetchall()
    db.execute(f"PRAGMA busy_timeout = {_WAIT_FOR_READERS}")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
