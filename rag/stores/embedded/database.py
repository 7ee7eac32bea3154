"""The truth of an embedded knowledge base: one SQLite file in WAL mode.

Visibility: a document row belongs to every generation from `added_in` until before `removed_in`.
An ingest writes rows for the generation after the published one, batch by batch; publishing raises
the published number, in one transaction. What no kept generation shows is deleted when the indexes
are ready for what is published. Rows an ingest left behind when it died are invisible, and the next
one takes them over. A row that a rollback brought back begins anew in the generation this made;
`shown_before` has the span before.
"""

from __future__ import annotations

import hashlib
import json
import queue
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rag.errors import DamagedStoreError, NotFoundError, StoreError
from rag.stores.contents import Contents
from rag.stores.embedded.known import StoredDocuments
from rag.stores.embedded.passing import AllChunks, Passing, Remembered, chunks_of, numbers
from rag.stores.embedded.rows import (
    CHUNK,
    DOCUMENT,
    INFO,
    as_json,
    chunk_of,
    document_of,
    info_of,
    rows_of,
)
from rag.stores.embedded.schema import bring_up_to_date
from rag.stores.files import alone
from rag.types import Chunk, Document, DocumentInfo, Filters, Fingerprint, Known

_VISIBLE = "d.added_in <= :generation AND (d.removed_in IS NULL OR d.removed_in > :generation)"
_WAS_VISIBLE = (
    "EXISTS (SELECT 1 FROM shown_before s WHERE s.document_key = d.key"
    " AND s.added_in <= :generation AND s.removed_in > :generation)"
)
_NO_FILE = (0, 0)
_FEW_PATTERNS = 20


@dataclass(frozen=True, slots=True)
class State:
    """What is published, in the database of this identity.

    An index can be brought to this generation from `vectors_since` on: the first with this
    fingerprint, or the first after which it is still known what was removed. `removals_since` is
    the latter alone.
    """

    generation: int
    fingerprint: Fingerprint | None
    vectors_since: int
    removals_since: int
    identity: str


class Database:
    """Reads of published generations, and the statements a writer needs.

    Connections are pooled, one to a thread at a time; readers never wait for a writer. `identity`
    tells this database from any other that was ever at its place.
    """

    identity: str

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        self._file = _NO_FILE
        self._moving = threading.Lock()
        self._remembered = Remembered()
        self._all_chunks = AllChunks()
        self._open()

    def _open(self) -> None:
        # SQLite does not wait for others while it changes the journal's mode, so we do.
        lock = self._path.with_name("prepare.lock")
        with self.explained(), alone(lock), closing(self.connect()) as db:
            self._prepare(db)
            self._file = self._file_now()

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # counts only while there is no table
        db.execute("PRAGMA journal_mode = WAL")
        bring_up_to_date(db, str(self._path))
        with db:
            db.execute(
                "INSERT OR IGNORE INTO meta (key, value) VALUES ('identity', ?)",
                (secrets.token_hex(8),),
            )
        self.identity = str(read_meta(db, "identity"))

    def connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=30, check_same_thread=False)
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA secure_delete = FAST")
        return db

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection on which all statements see one moment of the database."""
        with self.explained():
            self._follow()
            file, idle = self._file, self._idle
            try:
                db = idle.get_nowait()
            except queue.Empty:
                db = self.connect()
            db.execute("BEGIN")
            try:
                yield db
            finally:
                db.rollback()
                if file == self._file:
                    idle.put(db)
                else:
                    db.close()

    def _follow(self) -> None:
        """Where another database was put in place of the one we read (a restore), opens that."""
        if self._file_now() == self._file:
            return
        with self._moving:
            if self._file_now() != self._file:
                self.close()
                self._idle = queue.LifoQueue()
                self._open()

    def _file_now(self) -> tuple[int, int]:
        """What tells this file from any other; while one is being put in place, the one before."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return self._file
        return found.st_dev, found.st_ino

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
                "Mend it with: rag repair. Or restore a backup with: rag restore FILE.",
            ) from error

    def close(self) -> None:
        while not self._idle.empty():
            self._idle.get_nowait().close()

    def size(self) -> int:
        """Bytes on the disk."""
        files = (self._path, self._path.with_name(self._path.name + "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    # --- what readers ask ---------------------------------------------------------------------

    def generation(self) -> int:
        with self.reading() as db:
            return read_generation(db)

    def state(self) -> State:
        with self.reading() as db:
            return State(
                read_generation(db),
                as_fingerprint(read_meta(db, "fingerprint")),
                max(int(read_meta(db, key) or 0) for key in ("vectors_since", "removals_since")),
                int(read_meta(db, "removals_since") or 0),
                read_meta(db, "identity") or "",
            )

    def documents(self, filters: Filters) -> list[DocumentInfo]:
        with self.reading() as db:
            where, values = _where(filters, read_generation(db))
            rows = db.execute(
                f"SELECT {INFO} FROM documents d WHERE {where} ORDER BY d.name", values
            )
            return [info_of(row) for row in rows]

    def known(self) -> Known:
        # The plus keeps SQLite from the index on added_in.
        return StoredDocuments(
            self.reading, f"+{_VISIBLE}", lambda db: {"generation": read_generation(db)}
        )

    def document(self, document_id: str) -> Document:
        with self.reading() as db:
            row = db.execute(
                f"SELECT {DOCUMENT} FROM documents d WHERE d.id = :id AND {_VISIBLE}",
                {"id": document_id, "generation": read_generation(db)},
            ).fetchone()
        if row is None:
            raise NotFoundError(
                f"There is no document {document_id!r} in this knowledge base.",
                "List the documents with: rag docs ls",
            )
        return document_of(row)

    def chunks(self, document_id: str) -> list[Chunk]:
        with self.reading() as db:
            rows = db.execute(
                f"SELECT {CHUNK} FROM documents d JOIN chunks c ON c.document_key = d.key"
                f" WHERE d.id = :id AND {_VISIBLE} ORDER BY c.ordinal",
                {"id": document_id, "generation": read_generation(db)},
            )
            return [chunk_of(row) for row in rows]

    def fetch(self, chunk_ids: Sequence[int], generation: int) -> dict[int, tuple[Chunk, str, str]]:
        """Of one generation, which need not be the last: a rollback may just have passed it."""
        marks = ",".join("?" * len(chunk_ids))
        visible = f"({_VISIBLE} OR {_WAS_VISIBLE})".replace(":generation", "?")
        with self.reading() as db:
            rows = db.execute(
                f"SELECT {CHUNK}, d.name, d.title, c.id FROM chunks c"
                f" JOIN documents d ON d.key = c.document_key"
                f" WHERE c.id IN ({marks}) AND {visible}",
                (*chunk_ids, *[generation] * 4),
            )
            return {row[12]: (chunk_of(row), row[10], row[11]) for row in rows}

    def vectors_of(self, chunk_ids: Sequence[int]) -> dict[int, bytes]:
        marks = ",".join("?" * len(chunk_ids))
        with self.reading() as db:
            rows = db.execute(
                f"SELECT chunk_id, vector FROM vectors WHERE chunk_id IN ({marks})",
                tuple(chunk_ids),
            )
            return dict(rows.fetchall())

    def allowed(self, filters: Filters) -> Passing:
        """What of the published generation passes the filters."""
        with self.reading() as db:
            generation = read_generation(db)
            asked = (self._file, generation, filters)
            found = self._remembered.get(asked)
            if found is None:
                where, values = _where(filters, generation)
                keys = numbers(db, "d.key", f"documents d WHERE {where}", values)
                ids = chunks_of(db, keys, self._all_chunks, self._file)
                found = Passing(generation, keys, ids)
                self._remembered.put(asked, found)
            return found

    @contextmanager
    def contents(self) -> Iterator[Contents]:
        with self.reading() as db:
            generation = read_generation(db)
            visible = {"generation": generation}
            documents, chunks = db.execute(
                f"SELECT count(*), coalesce(sum(d.chunks), 0) FROM documents d WHERE {_VISIBLE}",
                visible,
            ).fetchone()
            fingerprint = as_fingerprint(read_meta(db, "fingerprint"))
            dimension = 0 if fingerprint is None else fingerprint.dimension
            yield Contents(
                generation,
                fingerprint,
                documents,
                chunks,
                rows_of(db, _VISIBLE, generation, dimension),
            )

    # --- what the derived indexes ask -----------------------------------------------------------

    def removed_between(self, after: int, upto: int) -> list[int]:
        with self.reading() as db:
            rows = db.execute(
                "SELECT DISTINCT chunk_id FROM removed WHERE generation > ? AND generation <= ?"
                " ORDER BY chunk_id",
                (after, upto),
            )
            return [row[0] for row in rows]

    def ids_between(self, after: int, upto: int) -> list[int]:
        """Of the chunks that came in generations (after, upto] and are still there, rising."""
        return [row[0] for row in self._between("c.id", "", after, upto)]

    def count_between(self, after: int, upto: int) -> int:
        return int(next(self._between("count(*)", "", after, upto))[0])

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


def as_fingerprint(value: str | None) -> Fingerprint | None:
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
    # The plus keeps SQLite from the index on added_in: it would read whole rows.
    conditions = [f"+{_VISIBLE}"]
    values: dict[str, object] = {"generation": generation}

    def any_of(condition: str, items: Sequence[str]) -> None:
        if items:
            name = f"v{len(values)}"
            values[name] = as_json(items)
            chosen = f"(SELECT value FROM json_each(:{name}))"
            conditions.append(f"({condition.replace('?', chosen)})")

    any_of("d.id IN ? OR d.name IN ?", filters.documents)
    if len(filters.paths) <= _FEW_PATTERNS:  # a quarter of the time
        for place, path in enumerate(filters.paths):
            values[f"path{place}"] = path
        either = " OR ".join(f"d.name GLOB :path{place}" for place in range(len(filters.paths)))
        conditions += [f"({either})"] if either else []
    else:
        any_of("EXISTS (SELECT 1 FROM ? p WHERE d.name GLOB p.value)", filters.paths)
    any_of("d.type IN ?", [t.lower().lstrip(".") for t in filters.types])
    any_of("EXISTS (SELECT 1 FROM json_each(d.tags) t WHERE t.value IN ?)", filters.tags)
    return " AND ".join(conditions), values
