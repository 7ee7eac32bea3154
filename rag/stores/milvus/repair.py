"""Mends a knowledge base in Milvus, embedding nothing that is still known.

What is lost is made again row by row, each step whole: if this breaks off, the next one goes on.
Readers may be at work meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import crc32

from rag.stores.files import exclusive
from rag.stores.indexes.keywords import KeywordIndex
from rag.stores.milvus.generations import make_room, record
from rag.stores.milvus.graves import Graves, delete_documents
from rag.stores.milvus.records import batches, recorded
from rag.stores.milvus.soundness import Rows, Soundness
from rag.stores.milvus.vectors import Rows as MilvusRows
from rag.stores.milvus.verify import keyword_findings, require
from rag.stores.soundness import Repaired, findings_of, vector_fault
from rag.types import Fingerprint

if TYPE_CHECKING:
    from rag.stores.milvus.store import MilvusStore
    from rag.types import Matrix, Vector

Embed = Callable[[Fingerprint, Sequence[str]], "Matrix"]

_TEXTS = 256  # embedded at once
_AT_ONCE = 500


def repair(store: MilvusStore, *, embed: Embed) -> Repaired:
    """`embed` is asked for the vectors of texts that no vector is left of, with the model they
    are of, and only then.

    Raises NotFoundError; BusyError while another process writes; StoreError if the application
    database or Milvus cannot be used.
    """
    require(store)
    repaired = Repaired()
    with store.alone():
        generation = store.generation
        soundness = Soundness(store.records, store.milvus)
        vectors = _Vectors(store, soundness, embed, repaired)
        useless = []
        for rows in soundness.documents(generation):
            if rows.examined.faults:
                useless.append(rows)
            else:
                vectors.mend(rows)
        vectors.finish()
        _delete_leftovers(store, soundness, repaired)
        _drop(store, useless, repaired)
        Graves(store.records, store.milvus).bury()
    _mend_keywords(store, repaired)
    return repaired


@dataclass(frozen=True, slots=True)
class _Lost:
    """A chunk without a vector of use."""

    row: Any
    document: Any

    @property
    def text(self) -> str:
        context, text = self.row.context, self.row.text
        return f"{context}\n{text}" if context else str(text)


class _Vectors:
    """Makes lost vectors again, some documents' at a time."""

    def __init__(
        self, store: MilvusStore, soundness: Soundness, embed: Embed, repaired: Repaired
    ) -> None:
        self._store = store
        self._fingerprints = soundness.fingerprints
        self._there = set(soundness.collections)
        self._embed = embed
        self._repaired = repaired
        self._lost: dict[str, list[_Lost]] = {}
        self._touched: set[str] = set()

    def mend(self, rows: Rows) -> None:
        bad = {vector.chunk_id for vector in rows.examined.bad_vectors}
        if not bad:
            return
        name = rows.document.collection
        waiting = self._lost.setdefault(name, [])
        waiting += [_Lost(row, rows.document) for row in rows.chunks if row.id in bad]
        self._touched.add(name)
        self._repaired.done.append(
            f"{len(bad)} lost or damaged vectors of {rows.examined.name} were made again."
        )
        if len(waiting) >= _TEXTS:
            self._make_again(name)

    def finish(self) -> None:
        """All that is lost, and lets readers see it."""
        for name in self._touched:
            self._make_again(name)
            self._show(name)

    def _make_again(self, name: str) -> None:
        import numpy as np

        lost = self._lost.pop(name, [])
        if not lost:
            return
        fingerprint = self._fingerprints[name]
        if name not in self._there:
            Graves(self._store.records, self._store.milvus).note(name)
            self._there.add(name)
        self._store.milvus.ensure(name, fingerprint.dimension)
        known = self._twins(name, fingerprint, lost)
        texts = list(dict.fromkeys(one.text for one in lost if one.text not in known))
        for some in batches(texts, _TEXTS):
            known |= zip(some, self._embed(fingerprint, some), strict=True)
        self._repaired.embedded += len(texts)
        vectors = np.array([known[one.text] for one in lost], np.float32)
        self._store.milvus.insert(
            name,
            MilvusRows(
                [one.row.id for one in lost],
                [one.document.key for one in lost],
                [one.document.added_in for one in lost],
                vectors,
                [one.text for one in lost],
            ),
            again=True,
        )
        chunks = self._store.records.tables.chunks
        with self._store.records.part.writing() as connection:
            for one, vector in zip(lost, vectors, strict=True):
                crc = crc32(vector.astype("<f4").tobytes())
                connection.execute(chunks.update().where(chunks.c.id == one.row.id).values(crc=crc))

    def _twins(
        self, name: str, fingerprint: Fingerprint, lost: Sequence[_Lost]
    ) -> dict[str, Vector]:
        """Sound vectors of other chunks with the same text and model."""
        import sqlalchemy as sa

        c, d = self._store.records.tables.chunks, self._store.records.tables.documents
        texts = {bytes(one.row.text_hash): one.text for one in lost}
        mine = {one.row.id for one in lost}
        wanted = (
            sa.select(c.c.id, c.c.text_hash, c.c.crc)
            .join(d, d.c.key == c.c.document_key)
            .where(d.c.collection == name)
        )
        others: dict[int, Any] = {}
        with self._store.records.part.reading() as connection:
            for some in batches(texts, _AT_ONCE):
                for row in connection.execute(wanted.where(c.c.text_hash.in_(some))):
                    if row.id not in mine:
                        others[row.id] = row
        found: dict[str, Vector] = {}
        for chunk_id, vector in self._store.milvus.vectors(name, list(others), 0).items():
            row = others[chunk_id]
            if not vector_fault(vector.astype("<f4").tobytes(), row.crc, fingerprint):
                found[texts[bytes(row.text_hash)]] = vector
        return found

    def _show(self, name: str) -> None:
        guarantee = self._store.milvus.settle(name)
        fingerprint = self._store.records.state().fingerprint
        if fingerprint and self._store.records.collection(recorded(fingerprint)) == name:
            bases = self._store.records.tables.bases
            with self._store.records.part.writing() as connection:
                connection.execute(
                    bases.update()
                    .where(bases.c.id == self._store.records.base)
                    .values(guarantee=guarantee)
                )


def _delete_leftovers(store: MilvusStore, soundness: Soundness, repaired: Repaired) -> None:
    for name in sorted(soundness.collections):
        unknown = soundness.leftovers(name)
        if unknown:
            store.milvus.delete(name, unknown)
            what = f"Deleted {len(unknown)} rows of the collection {name} without an owner."
            repaired.done.append(what)


def _drop(store: MilvusStore, useless: Sequence[Rows], repaired: Repaired) -> None:
    """As a new generation, if what readers see was touched. Their vectors are of texts that nobody
    knows for certain."""
    records = store.records
    state = records.state()
    d = records.tables.documents
    keys = [rows.examined.key for rows in useless]
    visible = [rows.examined.key for rows in useless if rows.examined.visible]
    with records.part.writing() as connection:
        if visible and state.fingerprint is not None:
            number = state.generation + 1
            make_room(connection, records, number)
            for some in batches(visible, _AT_ONCE):
                connection.execute(d.update().where(d.c.key.in_(some)).values(removed_in=number))
            record(connection, records, number, recorded(state.fingerprint))
        delete_documents(connection, records, keys)
    for rows in useless:
        why = next(findings_of(rows.examined)).what
        repaired.done.append(f"{why} The document was taken out, for the next ingest to read.")
        if rows.examined.visible:
            repaired.read_again.append(rows.examined.name)


def _mend_keywords(store: MilvusStore, repaired: Repaired) -> None:
    """Opening the knowledge base makes them again."""
    findings, _ = keyword_findings(store, store.records.ids(store.generation))
    if findings:
        lock = store.caches / "caches.lock"
        with exclusive(lock, "bringing the indexes up to date"):
            KeywordIndex(store.caches, store.records.identity).start_anew()
        store.views.forget()
        store.refresh()
        repaired.done.append(f"{findings[0].what} It was made again from the records.")
