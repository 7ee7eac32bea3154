"""The vectors, in Milvus: a server, or Milvus Lite in a file.

What a reader must see, it names by time: the writer notes Milvus's own clock after its last write,
and a search waits for that moment only. Strong consistency would wait for now, 145 to 400 ms for
every question; the default may miss what was just published, or what is still being recovered
after a crash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rag.errors import StoreError
from rag.stores.milvus.explain import MissingCollectionError
from rag.stores.milvus.fields import SPARSE, TERMS, Keywords, fitting, has_bm25, planned
from rag.stores.milvus.link import Link

if TYPE_CHECKING:
    from rag.types import Matrix, Vector

_LEAST_EF = 128  # at this breadth HNSW finds 0.98 of the nearest ten of 100,000
_MAX_LIMIT = 16_384  # Milvus's own
_AT_ONCE = 1000  # ids in one request
_NOW = 0  # as a guarantee: everything written before the question


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a collection, as parallel arrays: what a chunk needs to be found. The texts are only
    needed where the collection holds terms."""

    ids: Sequence[int]
    documents: Sequence[int]
    added_in: Sequence[int]
    vectors: Matrix
    texts: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Ranked:
    """A row found by keywords: its BM25, and its terms where they were asked for."""

    chunk_id: int
    score: float
    terms: str


class Milvus:
    """Safe to call from several threads. Nothing is opened before the first use.

    `uri` is a server's address, or a path that ends in .db for Milvus Lite; it and `token` are
    never shown. No call waits longer than `timeout` seconds for an answer, writes ten times that.
    `keywords` says whether collections are made with terms for Milvus to rank by: "auto" where it
    is a server of 2.5 or later, as Milvus Lite is slow at it. Raises StoreError.
    """

    def __init__(
        self, uri: str, token: str = "", *, timeout: float = 6.0, keywords: Keywords = "local"
    ) -> None:
        self._link = Link(uri, token, timeout=timeout)
        self._timeout = timeout
        self._keywords = keywords
        self._with_terms: dict[str, bool] = {}
        self.is_lite = self._link.is_lite

    # --- collections --------------------------------------------------------------------------

    def ensure(self, name: str, dimension: int) -> None:
        """Makes the collection if there is none. Raises StoreError if its vectors are longer or
        shorter."""
        with self._link.explained():
            if self._link.client.has_collection(name, timeout=self._timeout):
                self._check_dimension(name, dimension)
                self._link.client.load_collection(name, timeout=self._timeout * 10)
            else:
                self._make(name, dimension)

    def _check_dimension(self, name: str, dimension: int) -> None:
        described = self._link.client.describe_collection(name, timeout=self._timeout)
        held = [f["params"]["dim"] for f in described["fields"] if f["name"] == "vector"]
        if [int(d) for d in held] != [dimension]:
            raise StoreError(
                f"The collection {name} at {self._link.shown} holds vectors of {held} dimensions,"
                f" not of {dimension}.",
                "Use the embedding model it was made with, or change it with: rag reindex",
            )

    def _make(self, name: str, dimension: int) -> None:
        client = self._link.client
        schema, index = planned(
            client, dimension, is_lite=self.is_lite, with_terms=self._makes_terms()
        )
        client.create_collection(
            name, schema=schema, index_params=index, timeout=self._timeout * 10
        )

    def _makes_terms(self) -> bool:
        if self._keywords == "local" or self.is_lite:
            return self._keywords == "server"
        with self._link.explained():
            version = self._link.client.get_server_version(timeout=self._timeout)
        if self._keywords == "server" and not has_bm25(version):
            raise StoreError(
                f"Milvus at {self._link.shown} is of version {version}, and cannot rank by"
                " keywords.",
                "Milvus 2.5 and later can. Let this machine do it: RAG_MILVUS_KEYWORDS=local",
            )
        return has_bm25(version)

    def ranks(self, name: str) -> bool:
        """Whether keywords are to be asked of this collection, not of an index on this machine."""
        if self._keywords == "local":
            return False
        try:
            return self.has_terms(name)
        except MissingCollectionError:  # as it will be made anew
            return self._makes_terms()

    def has_terms(self, name: str) -> bool:
        if name not in self._with_terms:
            with self._link.explained():
                described = self._link.client.describe_collection(name, timeout=self._timeout)
            self._with_terms[name] = any(f["name"] == TERMS for f in described["fields"])
        return self._with_terms[name]

    def names(self, prefix: str) -> list[str]:
        with self._link.explained():
            listed = self._link.client.list_collections(timeout=self._timeout)
        return [name for name in listed if name.startswith(prefix)]

    def drop(self, name: str) -> None:
        """One that is not there is none to drop."""
        self._with_terms.pop(name, None)
        try:
            with self._link.explained():
                self._link.client.drop_collection(name, timeout=self._timeout * 10)
        except MissingCollectionError:
            return

    # --- writing ------------------------------------------------------------------------------

    def insert(self, name: str, rows: Rows, *, again: bool) -> None:
        """`again` where Milvus may have some of them already."""
        data: list[dict[str, Any]] = [
            {"id": i, "document": document, "added_in": generation, "vector": vector}
            for i, document, generation, vector in zip(
                rows.ids, rows.documents, rows.added_in, rows.vectors, strict=True
            )
        ]
        if self.has_terms(name):
            for row, text in zip(data, rows.texts, strict=True):
                row[TERMS] = fitting(text)
        with self._link.explained():
            write = self._link.client.upsert if again else self._link.client.insert
            write(name, data, timeout=self._timeout * 10)

    def delete(self, name: str, chunk_ids: Sequence[int]) -> None:
        """A collection that is not there holds nothing to delete."""
        try:
            with self._link.explained():
                for start in range(0, len(chunk_ids), _AT_ONCE):
                    some = list(chunk_ids[start : start + _AT_ONCE])
                    self._link.client.delete(name, ids=some, timeout=self._timeout * 10)
        except MissingCollectionError:
            return

    def delete_beyond(self, name: str, chunk_id: int) -> None:
        """All rows with a higher id."""
        with self._link.explained():
            self._link.client.delete(name, filter=f"id > {chunk_id}", timeout=self._timeout * 10)

    def settle(self, name: str) -> int:
        """Waits until searches see all that was written; returns the time of it, for `search`."""
        with self._link.explained():
            if self.is_lite:  # 20 times faster to search afterwards
                self._link.client.flush(name, timeout=self._timeout * 10)
            # pymilvus has no public way to Milvus's clock, and ours may be ahead of it.
            moment = _NOW if self.is_lite else self._link.client._get_connection().alloc_timestamp()
        self._query(name, "id < 0", ["id"], moment, timeout=self._timeout * 10)
        return int(moment)

    # --- asking -------------------------------------------------------------------------------

    def search(
        self, name: str, vector: Vector, limit: int, where: str, guarantee: int
    ) -> dict[int, float]:
        """The nearest `limit` rows that meet the condition: cosines by id, best first."""
        limit = min(limit, _MAX_LIMIT)
        (hits,) = self._link.asked(
            name,
            lambda client: client.search(
                name,
                [vector],
                filter=where,
                limit=limit,
                anns_field="vector",
                search_params={"metric_type": "IP", "params": {"ef": max(_LEAST_EF, limit)}},
                timeout=self._timeout,
                **self._from(guarantee),
            ),
        )
        return {int(hit["id"]): float(hit["distance"]) for hit in hits}

    def ranked(
        self,
        name: str,
        questions: Sequence[str],
        limit: int,
        where: str,
        guarantee: int,
        *,
        with_terms: bool,
    ) -> list[list[Ranked]]:
        """For each question, which is terms, the best `limit` rows that meet the condition."""
        found = self._link.asked(
            name,
            lambda client: client.search(
                name,
                list(questions),
                filter=where,
                limit=min(limit, _MAX_LIMIT),
                anns_field=SPARSE,
                search_params={"metric_type": "BM25"},
                output_fields=[TERMS] if with_terms else [],
                timeout=self._timeout,
                **self._from(guarantee),
            ),
        )
        return [
            [Ranked(int(h["id"]), abs(h["distance"]), h["entity"].get(TERMS, "")) for h in hits]
            for hits in found
        ]

    def terms(self, name: str, chunk_ids: Sequence[int], guarantee: int) -> dict[int, str]:
        """Those of the rows that are there."""
        found: dict[int, str] = {}
        for start in range(0, len(chunk_ids), _AT_ONCE):
            some = list(chunk_ids[start : start + _AT_ONCE])
            rows = self._query(name, f"id in {some}", ["id", TERMS], guarantee)
            found |= {int(r["id"]): r[TERMS] for r in rows}
        return found

    def vectors(self, name: str, chunk_ids: Sequence[int], guarantee: int) -> dict[int, Vector]:
        """Those of the vectors that are there."""
        import numpy as np

        found: dict[int, Vector] = {}
        for start in range(0, len(chunk_ids), _AT_ONCE):
            some = list(chunk_ids[start : start + _AT_ONCE])
            rows = self._query(name, f"id in {some}", ["id", "vector"], guarantee)
            found |= {int(r["id"]): np.asarray(r["vector"], np.float32) for r in rows}
        return found

    def present(self, name: str, chunk_ids: Sequence[int]) -> set[int]:
        """Those of the ids that have a row."""
        found: set[int] = set()
        for start in range(0, len(chunk_ids), _AT_ONCE):
            some = list(chunk_ids[start : start + _AT_ONCE])
            found.update(int(r["id"]) for r in self._query(name, f"id in {some}", ["id"], _NOW))
        return found

    def ids(self, name: str, first: int, last: int) -> list[int]:
        """The ids from `first` to `last`, at most 16,384 apart, that have a row."""
        where = f"id >= {first} and id <= {last}"
        rows = self._query(name, where, ["id"], _NOW, timeout=self._timeout * 10)
        return sorted(int(row["id"]) for row in rows)

    def count(self, name: str) -> int:
        rows = self._query(name, "", ["count(*)"], _NOW, timeout=self._timeout * 10)
        return int(rows[0]["count(*)"])

    def close(self) -> None:
        self._link.close()

    def _query(
        self,
        name: str,
        where: str,
        fields: list[str],
        guarantee: int,
        timeout: float | None = None,
    ) -> Any:
        return self._link.asked(
            name,
            lambda client: client.query(
                name,
                filter=where,
                output_fields=fields,
                timeout=timeout or self._timeout,
                **self._from(guarantee),
            ),
        )

    def _from(self, guarantee: int) -> dict[str, Any]:
        if self.is_lite or guarantee == _NOW:
            return {"consistency_level": "Strong"}
        return {"consistency_level": "Customized", "guarantee_timestamp": guarantee}
