"""Backups of an embedded knowledge base: one file, taken while it is in use.

A ZIP file that is not compressed: `manifest.json`, and `knowledge.db` with what was published at
one moment. Earlier generations, what a running ingest has put, and the indexes, which are derived,
are not in it.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import sqlite3
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from rag import __version__
from rag.errors import DamagedStoreError, NotFoundError, RagError, StoreError
from rag.stores.embedded.database import (
    Database,
    as_fingerprint,
    read_generation,
    read_meta,
    write_meta,
)
from rag.stores.embedded.generations import fingerprint_id
from rag.stores.embedded.schema import SCHEMA_VERSION, bring_up_to_date
from rag.stores.files import exchange, exclusive, replace_durably, sync
from rag.types import Fingerprint

FORMAT = 1
_DATABASE = "knowledge.db"
_MANIFEST = "manifest.json"
_MAX_MANIFEST = 1_000_000
_BLOCK = 1 << 20
_COPIED = ("documents", "chunks", "vectors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a backup holds. `schema` is that of its database, `program` the version that made it."""

    format: int
    program: str
    schema: int
    knowledge_base: str
    created_at: str  # ISO 8601, UTC
    generation: int
    fingerprint: Fingerprint | None
    documents: int
    chunks: int
    members: dict[str, Member]


# --- making one -----------------------------------------------------------------------------------


def backup(folder: Path, file: Path) -> Manifest:
    """Writes what the knowledge base in `folder` has published to `file`, which is there as a whole
    or not at all. Readers and writers go on meanwhile. It takes its size on the disk twice.

    Raises NotFoundError if there is none, StoreError if it cannot be read or the file not written.
    """
    if not (folder / _DATABASE).exists():
        raise NotFoundError(
            f"There is no knowledge base in {folder}.", "Make one with: rag ingest PATH"
        )
    with (
        _explained(file),
        tempfile.TemporaryDirectory(dir=file.parent, prefix=".backup-") as beside,
    ):
        copy = Path(beside) / "copy.db"  # by its own name it would pass for a knowledge base
        with closing(Database(folder / _DATABASE)) as database:
            _copy_published(database, copy)
        with closing(sqlite3.connect(copy)) as db:
            manifest = _describe(db, copy, folder.name)
        temporary = Path(beside) / file.name
        with zipfile.ZipFile(
            temporary, "w", zipfile.ZIP_STORED, strict_timestamps=False
        ) as archive:
            archive.writestr(_MANIFEST, json.dumps(asdict(manifest), ensure_ascii=False, indent=2))
            archive.write(copy, _DATABASE)
        replace_durably(temporary, file)
    return manifest


def _copy_published(database: Database, copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as db:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        bring_up_to_date(db, str(copy))
    with database.explained(), closing(database.connect()) as db:
        db.execute("ATTACH ? AS copy", (str(copy),))
        db.execute("PRAGMA copy.journal_mode = OFF")  # it is made again, not repaired
        db.execute("PRAGMA copy.synchronous = OFF")
        with db:
            db.execute("BEGIN")  # all that is read is of one moment
            generation = read_generation(db)
            for table in ("meta", "fingerprints"):
                _copy(db, table, "TRUE", ())
            _copy(db, "generations", "number = ?", (generation,))
            visible = "added_in <= ? AND (removed_in IS NULL OR removed_in > ?)"
            _copy(db, "documents", visible, (generation, generation))
            _copy(db, "chunks", "document_key IN (SELECT key FROM copy.documents)", ())
            _copy(db, "vectors", "chunk_id IN (SELECT id FROM copy.chunks)", ())
            db.execute("UPDATE copy.documents SET removed_in = NULL")
            db.execute("DELETE FROM copy.meta WHERE key IN ('identity', 'staged_fingerprint')")


def _copy(db: sqlite3.Connection, table: str, condition: str, values: tuple[int, ...]) -> None:
    """By name: a column that came with an upgrade stands last in one and not in the other."""
    columns = ", ".join(f'"{row[1]}"' for row in db.execute(f"PRAGMA copy.table_info({table})"))
    db.execute(
        f"INSERT INTO copy.{table} ({columns}) SELECT {columns} FROM main.{table}"
        f" WHERE {condition}",
        values,
    )


def _describe(db: sqlite3.Connection, copy: Path, name: str) -> Manifest:
    documents, chunks = _counts(db)
    with copy.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Manifest(
        format=FORMAT,
        program=__version__,
        schema=SCHEMA_VERSION,
        knowledge_base=name,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        generation=read_generation(db),
        fingerprint=as_fingerprint(read_meta(db, "fingerprint")),
        documents=documents,
        chunks=chunks,
        members={_DATABASE: Member(bytes=copy.stat().st_size, sha256=digest)},
    )


def _counts(db: sqlite3.Connection) -> tuple[int, int]:
    documents = db.execute("SELECT count(*) FROM documents").fetchone()[0]
    chunks = db.execute("SELECT count(*) FROM chunks").fetchone()[0]
    return int(documents), int(chunks)


# --- using one ------------------------------------------------------------------------------------


def read_manifest(file: Path) -> Manifest:
    """What a backup says of itself. Raises StoreError, DamagedStoreError."""
    with _archive(file) as archive:
        return _manifest(archive, file)


def restore(file: Path, folder: Path, *, replace: bool = False) -> Manifest:
    """Puts the knowledge base of a backup into `folder`, in place of the one there if `replace`.

    It is made beside and checked as a whole before anything is touched, then renamed into place;
    what is there before is renamed away and deleted last. Open stores follow when they refresh. The
    database has an identity of its own and a generation after both, so that nothing kept of before
    is taken for it. The indexes are made when it is opened.

    Raises DamagedStoreError for a file that is no whole backup, StoreError if a newer program made
    it or there is a knowledge base that is not to be replaced, BusyError if one is written to.
    """
    there = folder.exists() and any(folder.iterdir())
    if there and not replace:
        raise StoreError(
            f"There is a knowledge base in {folder} already.",
            "Restore under another name, or in place of it with: --replace",
        )
    beside = folder.parent / ".restoring" / secrets.token_hex(4)
    with _explained(file), ExitStack() as stack:
        beside.mkdir(parents=True)
        stack.callback(_remove, beside)
        coming, going = beside / "coming", beside / "going"
        coming.mkdir()
        with _archive(file) as archive:
            manifest = _manifest(archive, file)
            _extract(archive, manifest.members[_DATABASE], coming / _DATABASE, file)
        _check(coming / _DATABASE, manifest, file)
        if there:
            stack.enter_context(exclusive(folder / "write.lock", "writing to this knowledge base"))
        _renew(coming / _DATABASE, after=_generation(folder))
        sync(coming / _DATABASE)
        sync(coming)
        _swap(coming, folder, going)
    return manifest


def _manifest(archive: zipfile.ZipFile, file: Path) -> Manifest:
    try:
        with archive.open(_MANIFEST) as member:
            told = json.loads(member.read(_MAX_MANIFEST))
        version = int(told["format"])
        if version <= FORMAT:
            return _as_manifest(told)
    except (KeyError, TypeError, ValueError, RecursionError, zipfile.BadZipFile) as error:
        raise _no_backup(file, f"its manifest cannot be read ({error})") from None
    raise StoreError(
        f"{file} is a backup of format {version}; formats up to {FORMAT} are known.",
        "Upgrade with: pip install --upgrade rag-server",
    )


def _as_manifest(told: dict[str, Any]) -> Manifest:
    members = {str(name): Member(**member) for name, member in told["members"].items()}
    held = told["fingerprint"]
    fingerprint = None if held is None else Fingerprint(**held)
    manifest = Manifest(**{**told, "members": members, "fingerprint": fingerprint})
    if set(members) != {_DATABASE}:
        raise ValueError(f"members {sorted(members)}")
    return manifest


def _extract(archive: zipfile.ZipFile, member: Member, to: Path, file: Path) -> None:
    info = archive.getinfo(_DATABASE)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != member.bytes:
        raise _no_backup(file, f"{_DATABASE} is not as long as its manifest says")
    digest = hashlib.sha256()
    with archive.open(info) as source, to.open("wb") as copy:
        for block in _blocks(source):
            digest.update(block)
            copy.write(block)
    if digest.hexdigest() != member.sha256:
        raise _no_backup(file, f"the checksum of {_DATABASE} is not that of its manifest")


def _blocks(source: IO[bytes]) -> Iterator[bytes]:
    while block := source.read(_BLOCK):
        yield block


def _check(path: Path, manifest: Manifest, file: Path) -> None:
    """That it is a database of ours and holds what the manifest says. It may come from anywhere, so
    it must not bring code: a trigger or a view would run as if it were ours."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA trusted_schema = OFF")
        try:
            code = db.execute(
                "SELECT name FROM sqlite_schema WHERE type IN ('trigger', 'view') LIMIT 1"
            ).fetchone()
            if code is not None:
                raise _no_backup(file, f"it brings code along ({code[0]})")
            bring_up_to_date(db, str(file))
            held = (read_generation(db), *_counts(db))
        except sqlite3.DatabaseError as error:
            raise _no_backup(file, str(error)) from None
    if held != (manifest.generation, manifest.documents, manifest.chunks):
        raise _no_backup(file, "it does not hold what its manifest says")


def _renew(path: Path, *, after: int) -> None:
    """A new identity, and one generation after all that were shown at this place."""
    with closing(sqlite3.connect(path)) as db, db:
        generation = read_generation(db)
        number = max(generation, after) + 1
        fingerprint = read_meta(db, "fingerprint")
        write_meta(db, "identity", secrets.token_hex(8))
        if fingerprint is not None:
            write_meta(db, "generation", str(number))
            write_meta(db, "vectors_since", str(number))
            db.execute(
                "UPDATE generations SET number = ?, fingerprint = ?",
                (number, fingerprint_id(db, fingerprint)),
            )


def _generation(folder: Path) -> int:
    """0 where there is none, or none that can be read: to replace that is what a backup is for."""
    if not (folder / _DATABASE).exists():
        return 0
    try:
        with closing(Database(folder / _DATABASE)) as database:
            return database.generation()
    except StoreError:
        return 0


def _swap(coming: Path, folder: Path, going: Path) -> None:
    """In one step where the system can: else there is nothing at the place for a moment, and who
    is killed in it leaves both in `.restoring`."""
    there = folder.exists()
    if there and exchange(coming, folder):
        sync(folder.parent)
        return
    if there:
        folder.rename(going)
    try:
        coming.rename(folder)
    except OSError:
        if there:
            going.rename(folder)
        raise
    sync(folder.parent)


def _remove(beside: Path) -> None:
    shutil.rmtree(beside, ignore_errors=True)
    if not any(beside.parent.iterdir()):
        beside.parent.rmdir()


# --- what can go wrong ----------------------------------------------------------------------------


@contextmanager
def _archive(file: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except FileNotFoundError:
        raise NotFoundError(f"There is no file {str(file)!r}.", "Check the path.") from None
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError) as error:
        raise _no_backup(file, str(error)) from None
    except RuntimeError as error:  # an encrypted member
        raise _no_backup(file, str(error)) from None


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except RagError:
        raise
    except (OSError, sqlite3.OperationalError) as error:
        raise StoreError(
            f"The backup {file} cannot be written or put in place: {error}.",
            "Check the disk's free space and the folder's permissions.",
        ) from error


def _no_backup(file: Path, reason: str) -> DamagedStoreError:
    return DamagedStoreError(
        f"{file} is damaged or no backup: {reason}.", "Nothing was changed. Use another backup."
    )
