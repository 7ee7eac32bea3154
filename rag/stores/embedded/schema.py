"""The tables of an embedded knowledge base, and how a file of an older program gets them."""

from __future__ import annotations

import sqlite3

from rag.errors import DamagedStoreError

# Numbered by their place, from 1; only ever added to.
_STEPS = (
    """
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
    heading TEXT NOT NULL, page INTEGER, sheet TEXT, text_hash BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS chunks_document ON chunks (document_key, ordinal);
CREATE INDEX IF NOT EXISTS chunks_text ON chunks (text_hash);
CREATE TABLE IF NOT EXISTS vectors (chunk_id INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS removed (
    chunk_id INTEGER PRIMARY KEY, generation INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS removed_generation ON removed (generation);
""",
    "ALTER TABLE chunks ADD COLUMN rows TEXT NOT NULL DEFAULT '[]';",
    # Generations that can be brought back; vectors of several models beside each other.
    """
CREATE TABLE fingerprints (id INTEGER PRIMARY KEY, value TEXT NOT NULL UNIQUE);
INSERT INTO fingerprints (id, value) SELECT 1, value FROM meta WHERE key = 'fingerprint';
INSERT OR IGNORE INTO fingerprints (value) SELECT value FROM meta WHERE key = 'staged_fingerprint';
-- As a default it costs nothing, however many rows there are; new rows name theirs.
ALTER TABLE documents ADD COLUMN fingerprint INTEGER NOT NULL DEFAULT 1;
UPDATE documents SET fingerprint = (
    SELECT f.id FROM fingerprints f JOIN meta m ON m.value = f.value
    WHERE m.key = 'staged_fingerprint'
) WHERE added_in > (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'generation')
    AND EXISTS (SELECT 1 FROM meta WHERE key = 'staged_fingerprint');
CREATE TABLE generations (
    number INTEGER PRIMARY KEY, published_at TEXT NOT NULL, fingerprint INTEGER NOT NULL,
    documents INTEGER NOT NULL, chunks INTEGER NOT NULL, restores INTEGER
);
INSERT INTO generations (number, published_at, fingerprint, documents, chunks)
    SELECT CAST(g.value AS INTEGER), coalesce(max(d.updated_at), ''),
        (SELECT f.id FROM fingerprints f JOIN meta m ON m.value = f.value
         WHERE m.key = 'fingerprint'), count(d.key), coalesce(sum(d.chunks), 0)
    FROM meta g LEFT JOIN documents d ON d.added_in <= CAST(g.value AS INTEGER)
        AND (d.removed_in IS NULL OR d.removed_in > CAST(g.value AS INTEGER))
    WHERE g.key = 'generation' GROUP BY g.value;
CREATE TABLE shown_before (
    document_key INTEGER NOT NULL, added_in INTEGER NOT NULL, removed_in INTEGER NOT NULL,
    PRIMARY KEY (document_key, added_in)
) WITHOUT ROWID;
CREATE INDEX shown_before_removed ON shown_before (removed_in);
DROP INDEX removed_generation;
ALTER TABLE removed RENAME TO removed_once;
CREATE TABLE removed (
    generation INTEGER NOT NULL, chunk_id INTEGER NOT NULL, PRIMARY KEY (generation, chunk_id)
) WITHOUT ROWID;
INSERT INTO removed (generation, chunk_id) SELECT generation, chunk_id FROM removed_once;
DROP TABLE removed_once;
""",
    # CRC-32 of the vector, by which `rag verify` notices a changed one; older rows have none.
    "ALTER TABLE vectors ADD COLUMN crc INTEGER;",
    # All that filters ask of documents: without it they read the texts of all documents.
    "CREATE INDEX documents_filters ON documents (name, id, type, tags, added_in, removed_in);",
    # What is known, by uri and by content, without reading rows, which hold the texts.
    """
DROP INDEX documents_uri;
CREATE INDEX documents_uri ON documents (uri, removed_in, added_in);
CREATE INDEX documents_content ON documents (content_hash, uri, removed_in, added_in);
""",
)
SCHEMA_VERSION = len(_STEPS)


def bring_up_to_date(db: sqlite3.Connection, name: str) -> None:
    """Makes the tables of a new database, or what an older one lacks, in one transaction each.

    Raises DamagedStoreError, naming the file, for one that a newer program wrote.
    """
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise DamagedStoreError(
            f"{name} was written by a newer version of this program"
            f" (schema {version}, known up to {SCHEMA_VERSION}).",
            "Upgrade with: pip install --upgrade rag-server",
        )
    for number, step in enumerate(_STEPS[version:], version + 1):
        db.executescript(f"BEGIN IMMEDIATE; {step} PRAGMA user_version = {number}; COMMIT;")
