"""The writer's side of an embedded knowledge base: rows of the coming generation."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zlib import crc32

from rag.stores.embedded.database import read_generation, read_meta, text_hash, write_meta
from rag.stores.embedded.generations import delete_document, fingerprint_id, prune, record
from rag.stores.embedded.known import StoredDocuments
from rag.stores.embedded.rows import as_json
from rag.types import Chunk, Document, Fingerprint, Known

if TYPE_CHECKING:
    from rag.types import Matrix


class Staging:
    """Rows of the coming generation, on a connection of their own.

    They all hold vectors of one fingerprint. `replacing` builds the knowledge base anew beside the
    published one, whose documents count as unknown and all go when the new ones are published.
    `keep` is how many generations before the published one can be brought back.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        fingerprint: Fingerprint,
        *,
        replacing: bool = False,
        keep: int = 0,
    ) -> None:
        self._db = db
        self._using = threading.RLock()
        self._keep = keep
        self._fingerprint = json.dumps(asdict(fingerprint))
        self.replacing = replacing
        self.dimension = fingerprint.dimension
        self._published = read_generation(db)
        self.target = self._published + 1
        self.purge()
        with db:
            self._fingerprint_id = fingerprint_id(db, self._fingerprint)
            self._take_over()

    def _take_over(self) -> None:
        """The last writer may have died: its additions are kept if their vectors are of use, its
        removals are decided anew."""
        if read_meta(self._db, "staged_fingerprint") != self._fingerprint:
            staged = self._db.execute(
                "SELECT key FROM documents WHERE added_in = ?", (self.target,)
            ).fetchall()
            for (key,) in staged:
                delete_document(self._db, key)
            write_meta(self._db, "staged_fingerprint", self._fingerprint)
        self._db.execute(
            "UPDATE documents SET removed_in = NULL WHERE removed_in = ?", (self.target,)
        )
        self._db.execute(
            "UPDATE documents SET removed_in = :target WHERE added_in < :target"
            " AND removed_in IS NULL"
            " AND uri IN (SELECT uri FROM documents WHERE added_in = :target)",
            {"target": self.target},
        )

    def known(self) -> Known:
        # The plus keeps SQLite from the index on added_in.
        return StoredDocuments(
            self._reading,
            "d.removed_in IS NULL AND +d.added_in >= :oldest",
            lambda _: {"oldest": self._oldest},
        )

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """For the thread that reads files: it never sees half of a document."""
        with self._using:
            yield self._db

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._using, self._db:
            yield

    def vectors(self, texts: Iterable[str]) -> dict[str, bytes]:
        with self._using:
            return self._vectors(texts)

    def _vectors(self, texts: Iterable[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for text in texts:
            row = self._db.execute(
                "SELECT v.vector FROM chunks c JOIN vectors v ON v.chunk_id = c.id"
                " JOIN documents d ON d.key = c.document_key"
                " WHERE c.text_hash = ? AND d.fingerprint = ? AND d.added_in >= ? LIMIT 1",
                (text_hash(text), self._fingerprint_id, self._oldest),
            ).fetchone()
            if row is not None:
                found[text] = row[0]
        return found

    @property
    def _oldest(self) -> int:
        """The first generation whose rows count as known."""
        return self.target if self.replacing else 0

    def put(self, document: Document, chunks: Sequence[Chunk], vectors: Matrix) -> None:
        with self._changing():
            self._discard(document.uri)
            elements = [
                (e.kind, e.start, e.end, e.heading, e.page, e.sheet, e.row)
                for e in document.elements
            ]
            key = self._db.execute(
                "INSERT INTO documents (id, uri, name, type, title, text, elements, content_hash,"
                " settings_hash, size, tags, chunks, updated_at, added_in,"
                " fingerprint) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    document.id,
                    document.uri,
                    document.name,
                    document.type,
                    document.title,
                    document.text,
                    as_json(elements),
                    document.content_hash,
                    document.settings_hash,
                    document.size,
                    as_json(document.tags),
                    len(chunks),
                    datetime.now(UTC).isoformat(timespec="seconds"),
                    self.target,
                    self._fingerprint_id,
                ),
            ).lastrowid
            for chunk, vector in zip(chunks, vectors, strict=True):
                chunk_id = self._db.execute(
                    'INSERT INTO chunks (document_key, ordinal, start, "end", text, context,'
                    " heading, page, sheet, rows, text_hash) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                    (
                        key,
                        chunk.ordinal,
                        chunk.start,
                        chunk.end,
                        chunk.text,
                        chunk.context,
                        as_json(chunk.heading),
                        chunk.page,
                        chunk.sheet,
                        as_json(chunk.rows),
                        text_hash(chunk.embedded_text),
                    ),
                ).lastrowid
                blob = vector.astype("<f4").tobytes()
                self._db.execute(
                    "INSERT INTO vectors (chunk_id, vector, crc) VALUES (?,?,?)",
                    (chunk_id, blob, crc32(blob)),
                )

    def remove(self, uri: str) -> None:
        with self._changing():
            self._discard(uri)

    def _discard(self, uri: str) -> None:
        """Staged rows go at once; published ones are marked, because readers still see them."""
        # The plus keeps SQLite from the index on added_in, which would walk all that is staged.
        staged = self._db.execute(
            "SELECT key FROM documents WHERE uri = ? AND +added_in = ?", (uri, self.target)
        ).fetchall()
        for (key,) in staged:
            delete_document(self._db, key)
        self._db.execute(
            "UPDATE documents SET removed_in = ? WHERE uri = ? AND removed_in IS NULL",
            (self.target, uri),
        )

    def publish(self) -> int:
        if self.replacing:
            with self._db:
                self._db.execute(
                    "UPDATE documents SET removed_in = :target"
                    " WHERE removed_in IS NULL AND added_in < :target",
                    {"target": self.target},
                )
        changed = self._db.execute(
            "SELECT 1 FROM documents WHERE added_in = :target OR removed_in = :target LIMIT 1",
            {"target": self.target},
        ).fetchone()
        if changed is None:
            return self._published
        self._db.execute("PRAGMA synchronous = FULL")  # a published generation survives a power cut
        with self._db:
            record(self._db, self.target, self._fingerprint)
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._published, self.target = self.target, self.target + 1
        return self._published

    def purge(self) -> None:
        """Deletes what no kept generation shows any more.

        Readers that have not moved on yet still look at it: they find it gone and move on then, so
        this is for when the indexes of the new generation are ready.
        """
        prune(self._db, self._keep)
