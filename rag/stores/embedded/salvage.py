"""What can still be read of a damaged database, as a new database. The damaged one is not touched.

Rows are read table by table in order, and from the first unreadable page on one by one by their
numbers, so that a damaged page costs the rows that lie in it. Where the first page is damaged,
which says where the tables are, that of a new database takes its place: most have the same.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

from rag.errors import DamagedStoreError
from rag.stores.embedded.database import Database, read_meta, write_meta

_PAGE = 4096
_UNKNOWN_HIGHEST = 1_000_000
# Those of a knowledge base, with what numbers their rows.
_NUMBERED = (("documents", "key"), ("chunks", "id"), ("vectors", "chunk_id"))


def salvage(damaged: Path, workplace: Path) -> tuple[Path, list[str]]:
    """A new database in the folder `workplace`, and the uris of documents that could not be read.

    Its rows are those found; whether they make up whole documents is for the caller to see. It is
    another database (`identity`). Raises DamagedStoreError if nothing of use can be read.
    """
    copy = workplace / "damaged.db"
    shutil.copyfile(damaged, copy)
    log = damaged.with_name(damaged.name + "-wal")
    if log.exists():
        shutil.copyfile(log, copy.with_name(copy.name + "-wal"))
    new = workplace / "knowledge.db"
    Database(new).close()
    if not _has_tables(copy):
        _give_first_page(copy, new)
    with closing(_connect(copy)) as old, closing(_connect(new)) as db, db:
        _copy_meta(old, db, damaged)
        for table, number in _NUMBERED:
            _copy_rows(old, db, table, number)
        for table in ("fingerprints", "generations", "shown_before"):
            _copy_small(old, db, table)
        lost = _unread(old, db)
        if not db.execute("SELECT 1 FROM documents LIMIT 1").fetchone():
            raise _hopeless(damaged)
    with closing(_connect(new)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return new, lost


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path)
    db.text_factory = lambda data: data.decode("utf-8", "replace")
    return db


def _has_tables(copy: Path) -> bool:
    try:
        with closing(_connect(copy)) as db:
            rows = db.execute("SELECT name FROM sqlite_master WHERE rootpage > 0").fetchall()
    except sqlite3.DatabaseError:
        return False
    return {"meta", "documents", "chunks", "vectors"} <= {row[0] for row in rows}


def _give_first_page(copy: Path, new: Path) -> None:
    """Bytes 28 to 31 of a database are its length in pages, 32 to 39 its list of free pages."""
    first = bytearray(new.read_bytes()[:_PAGE])
    with copy.open("r+b") as file:
        pages = max(1, file.seek(0, 2) // _PAGE)
        first[28:32] = pages.to_bytes(4, "big")
        first[32:40] = bytes(8)
        file.seek(0)
        file.write(first)
        file.truncate(pages * _PAGE)


def _copy_meta(old: sqlite3.Connection, db: sqlite3.Connection, damaged: Path) -> None:
    try:
        found = {key: value for key in _META if (value := read_meta(old, key)) is not None}
    except sqlite3.DatabaseError:
        raise _hopeless(damaged) from None
    if not {"generation", "fingerprint"} <= found.keys():
        raise _hopeless(damaged)
    for key, value in found.items():
        write_meta(db, key, value)


_META = ("generation", "fingerprint", "staged_fingerprint", "vectors_since", "removals_since")


def _copy_rows(old: sqlite3.Connection, db: sqlite3.Connection, table: str, number: str) -> None:
    columns = _common_columns(old, db, table)
    names = ", ".join(f'"{c}"' for c in columns)
    marks = ", ".join("?" * len(columns))
    for row in _readable(old, table, number, columns):
        # Two damaged rows may claim one number, or lack a value that every row has.
        with suppress(sqlite3.IntegrityError):
            db.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", row)


def _common_columns(old: sqlite3.Connection, db: sqlite3.Connection, table: str) -> list[str]:
    """An older program's database has fewer."""
    there = {row[1] for row in old.execute(f"PRAGMA table_info({table})")}
    return [row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[1] in there]


def _readable(
    old: sqlite3.Connection, table: str, number: str, columns: Sequence[str]
) -> Iterator[tuple]:  # type: ignore[type-arg]
    names = ", ".join(f'"{c}"' for c in columns)
    position = list(columns).index(number)
    last = 0
    try:
        for row in old.execute(f"SELECT {names} FROM {table} ORDER BY {number}"):
            yield row
            last = row[position]
    except sqlite3.Error:
        pass
    else:
        return
    for wanted in range(last + 1, _highest(old, table, number) + 1):
        with suppress(sqlite3.Error):
            row = old.execute(
                f"SELECT {names} FROM {table} WHERE {number} = ?", (wanted,)
            ).fetchone()
            if row is not None:
                yield row


def _highest(old: sqlite3.Connection, table: str, number: str) -> int:
    counted = "chunks" if table == "vectors" else table
    for question in (
        f"SELECT seq FROM sqlite_sequence WHERE name = '{counted}'",
        f"SELECT max({number}) FROM {table}",
    ):
        with suppress(sqlite3.Error):
            row = old.execute(question).fetchone()
            if row is not None and row[0] is not None:
                return int(row[0])
    return _UNKNOWN_HIGHEST


def _copy_small(old: sqlite3.Connection, db: sqlite3.Connection, table: str) -> None:
    """What an unreadable one would tell is of use only to go back to an earlier generation."""
    with suppress(sqlite3.Error):
        columns = _common_columns(old, db, table)
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        rows = old.execute(f"SELECT {names} FROM {table}").fetchall()
        db.executemany(f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})", rows)


def _unread(old: sqlite3.Connection, db: sqlite3.Connection) -> list[str]:
    """By the index on the uris, which lies elsewhere than the rows."""
    uris: list[str] = []
    with suppress(sqlite3.Error):
        query = "SELECT key, uri FROM documents INDEXED BY documents_uri ORDER BY uri"
        for key, uri in old.execute(query):
            if db.execute("SELECT 1 FROM documents WHERE key = ?", (key,)).fetchone() is None:
                uris.append(str(uri))
    return uris


def _hopeless(damaged: Path) -> DamagedStoreError:
    return DamagedStoreError(
        f"Nothing of use can be read from the database {damaged}.",
        "Restore a backup with: rag restore FILE. Or delete the folder and ingest again.",
    )
