"""Proves that an embedded knowledge base is what it should be, or names what is not.

Nothing is changed, and nothing is opened that would mend itself. Readers and a writer may be at
work meanwhile: the rows are seen at one moment, and indexes that move on are looked at again.

A process that answers questions has read the vectors' file into memory, but maps the files of the
keyword index. Nothing here ever shortens such a file or writes into it; where another program does,
the system ends the process at its next question (SIGBUS), which no process can prevent. Whoever
opens the knowledge base next notices it by the files' ends, and makes the index again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rag.errors import NotFoundError
from rag.stores.embedded.database import as_fingerprint, read_generation, read_meta
from rag.stores.embedded.examining import ORPHANS, examine
from rag.stores.indexes.keywords import NOTE, index_folder, is_damage, noted_generation
from rag.stores.indexes.sealed import broken_tantivy_files, is_intact, read_seal
from rag.stores.indexes.vectors import base_files, load_base
from rag.stores.soundness import Finding, Kind, Verification, findings_of
from rag.types import Fingerprint

DATABASE = "knowledge.db"
_TRIES = 5
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Rows:
    """What the database holds, and what is wrong with it."""

    findings: tuple[Finding, ...]
    identity: str
    generation: int
    vectors_since: int
    fingerprint: Fingerprint | None
    documents: int
    visible: frozenset[int]  # chunk ids
    vectors: int


def verify(folder: Path) -> Verification:
    """Reads all of the knowledge base in `folder`. Raises NotFoundError if there is none."""
    if not (folder / DATABASE).exists():
        raise NotFoundError(
            f"There is no knowledge base in {folder}.", "Make one with: rag ingest PATH"
        )
    for _ in range(_TRIES):
        rows = verify_rows(folder / DATABASE)
        if rows.identity == "":  # nothing can be said about the indexes of an unreadable database
            return Verification(findings=rows.findings)
        dense, in_dense = verify_vector_index(folder, rows)
        keyword, in_keyword = verify_keyword_index(folder, rows)
        if not (dense or keyword) or published(folder / DATABASE) == rows.generation:
            break
    return Verification(
        findings=(*rows.findings, *dense, *keyword),
        generation=rows.generation,
        documents=rows.documents,
        chunks=len(rows.visible),
        vectors=rows.vectors,
        in_vector_index=in_dense,
        in_keyword_index=in_keyword,
    )


def open_to_read(path: Path) -> sqlite3.Connection:
    """Bytes that are not UTF-8 become text that fits no checksum, instead of an error."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)
    db.text_factory = lambda data: data.decode("utf-8", "replace")
    return db


def published(path: Path) -> int:
    """The generation; -1 if it cannot be read."""
    try:
        with closing(open_to_read(path)) as db:
            return read_generation(db)
    except sqlite3.DatabaseError:
        return -1


# --- the database -----------------------------------------------------------------------------


def verify_rows(path: Path) -> Rows:
    """`identity` is empty if the file cannot be read as a knowledge base."""
    try:
        with closing(open_to_read(path)) as db:
            db.execute("BEGIN")
            damage = [str(row[0]) for row in db.execute(f"PRAGMA integrity_check({_SHOWN})")]
            if damage != ["ok"]:
                return _unreadable(path, "; ".join(damage[:3]).replace("\n", " "))
            return _rows(db)
    except (sqlite3.DatabaseError, ValueError, TypeError, KeyError) as error:
        return _unreadable(path, str(error))


def _unreadable(path: Path, why: str) -> Rows:
    what = f"The database {path.name} is damaged: {why}."
    return Rows((Finding(kind="database", what=what),), "", 0, 0, None, 0, frozenset(), 0)


def _rows(db: sqlite3.Connection) -> Rows:
    fingerprint = as_fingerprint(read_meta(db, "fingerprint"))
    generation = read_generation(db)
    findings: list[Finding] = []
    visible: set[int] = set()
    documents = bad = 0
    for examined in examine(db):
        findings += findings_of(examined)
        if examined.visible:
            documents += 1
            bad += len(examined.bad_vectors)
            visible.update(examined.chunk_ids)
    for table, _, count in ORPHANS:
        orphans = db.execute(count).fetchone()[0]
        if orphans:
            what = f"{orphans} rows of the table {table} belong to nothing."
            findings.append(Finding(kind="database", what=what))
    if documents and fingerprint is None:
        what = "It is not recorded which embedding model the vectors are of."
        findings.append(Finding(kind="database", what=what))
    return Rows(
        tuple(findings),
        read_meta(db, "identity") or "",
        generation,
        int(read_meta(db, "vectors_since") or 0),
        fingerprint,
        documents,
        frozenset(visible),
        len(visible) - bad,
    )


# --- the indexes ------------------------------------------------------------------------------


def verify_vector_index(folder: Path, rows: Rows) -> tuple[list[Finding], int]:
    """Findings, and how many of the visible chunks are in it. An older index is brought up to date
    by whoever opens the knowledge base: what it holds and what came since is looked at together."""
    say = _saying("vector index")
    files = base_files(folder)
    if not files:
        return ([say("The vector index is not there.")] if rows.visible else []), 0
    path, generation = files[0]
    note = read_seal(path)
    if note is None or not is_intact(path):
        return [say(f"{path.name} is not what was written: it is shortened or changed.")], 0
    if note.get("identity") != rows.identity:
        return [say(f"{path.name} belongs to another database.")], 0
    if not rows.vectors_since <= generation <= rows.generation:
        what = f"{path.name} is of generation {generation}, the database of {rows.generation}."
        return [say(what)], 0
    dimension = 0 if rows.fingerprint is None else rows.fingerprint.dimension
    base = load_base(path, generation, dimension, rows.identity)
    if base is None:
        return [say(f"{path.name} cannot be read as an index of this embedding model.")], 0
    ids = [int(i) for i in base.ids]
    return _compared(folder, rows, "vector index", ids, generation)


def verify_keyword_index(folder: Path, rows: Rows) -> tuple[list[Finding], int]:
    """As `verify_vector_index`."""
    say = _saying("keyword index")
    place = index_folder(folder)
    if not (place / "meta.json").exists():
        return ([say("The keyword index is not there.")] if rows.visible else []), 0
    broken = broken_tantivy_files(place, read_all=True)
    if broken:
        names = ", ".join(broken[:5])
        return [say(f"Files of the keyword index are lost, shortened or changed: {names}.")], 0
    try:
        generation, ids = _held(place, rows.identity)
    except BaseException as error:
        if not is_damage(error):
            raise
        return [say(f"The keyword index cannot be read: {error}.")], 0
    if generation < 0:
        return [say("The keyword index belongs to another database.")], 0
    if generation > rows.generation:
        what = f"The keyword index is of generation {generation}, the database of"
        return [say(f"{what} {rows.generation}.")], 0
    return _compared(folder, rows, "keyword index", ids, generation)


def _held(place: Path, identity: str) -> tuple[int, list[int]]:
    """The generation (-1 of another database) and the chunk ids of a keyword index."""
    import tantivy

    index = tantivy.Index.open(str(place))
    searcher = index.searcher()
    generation = noted_generation(searcher, index.schema, identity)
    if not searcher.num_docs:
        return generation, []
    hits = searcher.search(tantivy.Query.all_query(), searcher.num_docs, count=False).hits
    ids = searcher.fast_field_values("id", [address for _, address in hits])
    return generation, [int(i) for i in ids if i != NOTE]  # type: ignore[arg-type]


def _compared(
    folder: Path, rows: Rows, kind: Kind, ids: list[int], generation: int
) -> tuple[list[Finding], int]:
    with closing(open_to_read(folder / DATABASE)) as db:
        removed = {
            row[0]
            for row in db.execute(
                "SELECT chunk_id FROM removed WHERE generation > ?", (generation,)
            )
        }
        came = {
            row[0]
            for row in db.execute(
                "SELECT c.id FROM documents d JOIN chunks c ON c.document_key = d.key"
                " WHERE d.added_in > ? AND d.added_in <= ?",
                (generation, rows.generation),
            )
        }
    held = set(ids)
    now = (held - removed) | (came & rows.visible)
    say = _saying(kind)
    findings = []
    if len(held) < len(ids):
        findings.append(say(f"The {kind} holds {len(ids) - len(held)} chunks twice."))
    if missing := rows.visible - now:
        findings.append(say(f"The {kind} misses {_ids(missing)}."))
    if extra := now - rows.visible:
        findings.append(say(f"The {kind} holds {_ids(extra)}, not visible in the database."))
    return findings, len(now & rows.visible)


def _ids(ids: set[int] | frozenset[int]) -> str:
    shown = ", ".join(map(str, sorted(ids)[:5]))
    return f"{len(ids)} chunks (ids {shown}{', ...' if len(ids) > 5 else ''})"


def _saying(kind: Kind) -> Callable[[str], Finding]:
    return lambda what: Finding(kind=kind, what=what)
