"""The truth of an embedded knowledge base: one SQLite file in WAL mode.

Visibility: a document row belongs to every generation from `added_in` until before `removed_in`.
An ingest writes rows for the generation after the published one, batch by batch; publishing raises
the published number, in one transaction. What is no longer visible is deleted when the indexes are
ready for what is. Rows an ingest left behind when it died are invisible, and the next one takes
them over.
"""

from __future__ import annotations

import hashlib
import json
import queue
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rag.errors import DamagedStoreError, NotFoundError, StoreError
from rag.stores.files import alone
from rag.types import Chunk, Document, DocumentInfo, Element, Filters, Fingerprint

if TYPE_CHECKING:
    pass

SCHEMA_VERSION = 2

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS documents (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL, uri TEXT NOT NULL, name TEXT NOT NULL, type TEXT NOT NULL,
    title TEXT NOT NULL, text TEXT NOT NULL, elements TEXT NOT NULL,
    content_hash TEXT NOT NULL, settings_hash TEXT NOT NULL, size INTEGER NOT NULL,
    tags TEXT NOT NULL, chunks INTEGER NOT NULL, updated_at TEXT NOT NULL,
    added_in INTEGER NOT NULL, removed_in INTEGER
);
CREATE INDEX IF NOT EXISTS documents_uri ON documents (uri);
CREATE INDEX IF NOT EXISTS documents_id ON documents (id);
CREATE INDEX IF NOT EXISTS documents_added ON documents (added_in);
CREATE INDEX IF NOT EXISTS documents_removed ON documents (removed_in)
    WHERE removed_in IS NOT NULL;
CREATE TABLE IF NOT EXISTS chunks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    document_key INTEGER NOT NULL, ordinal INTEGER NOT NULL,
    start INTEGER NOT NULL, "end" INTEGER NOT NULL, text TEXT NOT NULL, context TEXT NOT NULL,
    heading TEXT NOT NULL, page INTEGER, sheet TEXT, text_hash BLOB NOT NULL,
    rows TEXT NOT NULL DEFAULT '[]'
);
CREATE INDEX IF NOT EXISTS chunks_document ON chunks (document_key, ordinal);
CREATE INDEX IF NOT EXISTS chunks_text ON chunks (text_hash);
CREATE TABLE IF NOT EXISTS vectors (chunk_id INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS removed (
    chunk_id INTEGER PRIMARY KEY, generation INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS removed_generation ON removed (generation);
"""

# By the version that came with it, what `_SCHEMA` alone does not bring to an older database.
_UPGRADES = {2: "ALTER TABLE chunks ADD COLUMN rows TEXT NOT NULL DEFAULT '[]';"}

_VISIBLE = "d.added_in <= :generation AND (d.removed_in IS NULL OR d.removed_in > :generation)"
INFO = (
    "d.id, d.uri, d.name, d.type, d.title, d.content_hash, d.settings_hash, d.size, d.tags,"
    " d.chunks, d.updated_at"
)
_CHUNK = (
    'd.id, c.ordinal, c.start, c."end", c.text, c.context, c.heading, c.page, c.sheet, c.rows'
)


@dataclass(frozen=True, slots=True)
class State:
    """What is published: `vectors_since` is the first generation with this fingerprint."""

    generation: int
    fingerprint: Fingerprint | None
    vectors_since: int


class Database:
    """Reads of published generations, and the statements a writer needs.

    Connections are pooled, one to a thread at a time; readers never wait for a writer. `identity`
    tells this database from any other that was ever at its place.
    """

    identity: str

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        # SQLite does not wait for others while it changes the journal's mode, so we do.
        lock = path.with_name("prepare.lock")
        with self.explained(), alone(lock), closing(self.connect()) as db:
            self._prepare(db)

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA journal_mode = WAL")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise DamagedStoreError(
                f"{self._path} was written by a newer version of this program"
                f" (schema {version}, known up to {SCHEMA_VERSION}).",
                "Upgrade with: pip install --upgrade rag-server",
            )
        if version < SCHEMA_VERSION:
            steps = " ".join(step for since, step in _UPGRADES.items() if 0 < version < since)
            db.executescript(
                f"BEGIN IMMEDIATE; {steps} {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION};"
                " COMMIT;"
            )
        self.identity = read_meta(db, "identity") or secrets.token_hex(8)
        with db:
            write_meta(db, "identity", self.identity)

    def connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=30, check_same_thread=False)
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA secure_delete = FAST")
        return db

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection on which all statements see one moment of the database."""
        with self.explained():
            try:
                db = self._idle.get_nowait()
            except queue.Empty:
                db = self.connect()
            db.execute("BEGIN")
            try:
                yield db
            finally:
                db.rollback()
                self._idle.put(db)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turns SQLite's errors into StoreError."""
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            raise StoreError(
                f"The database {self._path} cannot be used: {error}.",
                "Check the disk's free space and the folder's permissions.",
            ) from error
        except sqlite3.DatabaseError as error:
            raise DamagedStoreError(
                f"The database {self._path} is damaged: {error}.",
                "Restore the whole folder from a backup, or delete it and ingest again.",
            ) from error

    def close(self) -> None:
        while not self._idle.empty():
            self._idle.get_nowait().close()

    # --- what readers ask ---------------------------------------------------------------------

    def generation(self) -> int:
        with self.reading() as db:
            return read_generation(db)

    def state(self) -> State:
        with self.reading() as db:
            return State(
                read_generation(db),
                _fingerprint(read_meta(db, "fingerprint")),
                int(read_meta(db, "vectors_since") or 0),
            )

    def documents(self, filters: Filters) -> list[DocumentInfo]:
        with self.reading() as db:
            where, values = _where(filters, read_generation(db))
            rows = db.execute(
                f"SELECT {INFO} FROM documents d WHERE {where} ORDER BY d.name", values
            )
            return [info_of(row) for row in rows]

    def document(self, document_id: str) -> Document:
        with self.reading() as db:
            row = db.execute(
                f"SELECT {INFO}, d.text, d.elements FROM documents d"
                f" WHERE d.id = :id AND {_VISIBLE}",
                {"id": document_id, "generation": read_generation(db)},
            ).fetchone()
        if row is None:
            raise NotFoundError(
                f"There is no document {document_id!r} in this knowledge base.",
                "List the documents with: rag docs ls",
            )
        info = info_of(row)
        return Document(
            id=info.id,
            uri=info.uri,
            name=info.name,
            type=info.type,
            title=info.title,
            text=row[11],
            elements=tuple(
                Element(e[0], e[1], e[2], tuple(e[3]), *e[4:]) for e in json.loads(row[12])
            ),
            content_hash=info.content_hash,
            settings_hash=info.settings_hash,
            size=info.size,
            tags=info.tags,
        )

    def chunks(self, document_id: str) -> list[Chunk]:
        with self.reading() as db:
            rows = db.execute(
                f"SELECT {_CHUNK} FROM documents d JOIN chunks c ON c.document_key = d.key"
                f" WHERE d.id = :id AND {_VISIBLE} ORDER BY c.ordinal",
                {"id": document_id, "generation": read_generation(db)},
            )
            return [_chunk(row) for row in rows]

    def fetch(self, chunk_ids: Sequence[int], generation: int) -> dict[int, tuple[Chunk, str, str]]:
        marks = ",".join("?" * len(chunk_ids))
        with self.reading() as db:
            rows = db.execute(
                f"SELECT {_CHUNK}, d.name, d.title, c.id FROM chunks c"
                f" JOIN documents d ON d.key = c.document_key"
                f" WHERE c.id IN ({marks}) AND {_VISIBLE.replace(':generation', '?')}",
                (*chunk_ids, generation, generation),
            )
            return {row[12]: (_chunk(row), row[10], row[11]) for row in rows}

    def vectors_of(self, chunk_ids: Sequence[int]) -> dict[int, bytes]:
        marks = ",".join("?" * len(chunk_ids))
        with self.reading() as db:
            rows = db.execute(
                f"SELECT chunk_id, vector FROM vectors WHERE chunk_id IN ({marks})",
                tuple(chunk_ids),
            )
            return dict(rows.fetchall())

    def allowed(self, filters: Filters) -> tuple[int, list[int], list[int]]:
        """The generation, and of it keys of documents and ids of chunks that pass the filters."""
        with self.reading() as db:
            generation = read_generation(db)
            where, values = _where(filters, generation)
            keys = [
                r[0] for r in db.execute(f"SELECT d.key FROM documents d WHERE {where}", values)
            ]
            ids = db.execute(
                f"SELECT c.id FROM documents d JOIN chunks c ON c.document_key = d.key"
                f" WHERE {where} ORDER BY c.id",
                values,
            )
            return generation, keys, [r[0] for r in ids]

    # --- what the derived indexes ask -----------------------------------------------------------

    def removed_between(self, after: int, upto: int) -> list[int]:
        with self.reading() as db:
            rows = db.execute(
                "SELECT chunk_id FROM removed WHERE generation > ? AND generation <= ?"
                " ORDER BY chunk_id",
                (after, upto),
            )
            return [row[0] for row in rows]

    def vectors_between(self, after: int, upto: int) -> Iterator[tuple[int, bytes]]:
        """Chunks that came in generations (after, upto] and are still there, by rising id."""
        return self._between("c.id, v.vector", "JOIN vectors v ON v.chunk_id = c.id", after, upto)

    def texts_between(self, after: int, upto: int) -> Iterator[tuple[int, int, str, str]]:
        return self._between("c.id, c.document_key, c.context, c.text", "", after, upto)

    def _between(self, columns: str, join: str, after: int, upto: int) -> Iterator[tuple]:  # type: ignore[type-arg]
        with self.reading() as db:
            yield from db.execute(
                f"SELECT {columns} FROM documents d JOIN chunks c ON c.document_key = d.key {join}"
                f" WHERE d.added_in > :after AND {_VISIBLE} ORDER BY c.id",
                {"after": after, "generation": upto},
            )


def _fingerprint(value: str | None) -> Fingerprint | None:
    return None if value is None else Fingerprint(**json.loads(value))


def text_hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def read_meta(db: sqlite3.Connection, key: str) -> str | None:
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def write_meta(db: sqlite3.Connection, key: str, value: str) -> None:
    db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))


def read_generation(db: sqlite3.Connection) -> int:
    return int(read_meta(db, "generation") or 0)


def _where(filters: Filters, generation: int) -> tuple[str, dict[str, object]]:
    """A condition on `documents d`. Every value is bound."""
    conditions = [_VISIBLE]
    values: dict[str, object] = {"generation": generation}

    def any_of(condition: str, items: Sequence[str]) -> None:
        if items:
            name = f"v{len(values)}"
            values[name] = as_json(items)
            chosen = f"(SELECT value FROM json_each(:{name}))"
            conditions.append(f"({condition.replace('?', chosen)})")

    any_of("d.id IN ? OR d.name IN ?", filters.documents)
    any_of("EXISTS (SELECT 1 FROM ? p WHERE d.name GLOB p.value)", filters.paths)
    any_of("d.type IN ?", [t.lower().lstrip(".") for t in filters.types])
    any_of("EXISTS (SELECT 1 FROM json_each(d.tags) t WHERE t.value IN ?)", filters.tags)
    return " AND ".join(conditions), values


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


def _chunk(row: tuple) -> Chunk:  # type: ignore[type-arg]
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
