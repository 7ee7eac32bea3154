"""The vectors, in Milvus: a server, or Milvus Lite in a file.

What a reader must see, it names by time: the writer notes Milvus's own clock after its last write,
and a search waits for that moment only. Strong consistency would wait for now, 145 to 400 ms for
every question; the default may miss what was just published, or what is still being recovered
after a crash.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rag.errors import StoreError
from rag.stores.milvus.explain import MissingCollectionError, explained, without_secrets

if TYPE_CHECKING:
    from rag.types import Matrix, Vector

_LEAST_EF = 128  # at this breadth HNSW finds 0.98 of the nearest ten of 100,000
_MAX_LIMIT = 16_384  # Milvus's own
_AT_ONCE = 1000  # ids in one request
_HNSW = {"M": 16, "efConstruction": 200}
_NOW = 0  # as a guarantee: everything written before the question
_NOT_LOADED = 101
_LITE = re.compile(r"[^:]+\.db")


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a collection, as parallel arrays: what a chunk needs to be found."""

    ids: Sequence[int]
    documents: Sequence[int]
    added_in: Sequence[int]
    vectors: Matrix


class Milvus:
    """Safe to call from several threads. Nothing is opened before the first use.

    `uri` is a server's address, or a path that ends in .db for Milvus Lite; it and `token` are
    never shown. No call waits longer than `timeout` seconds for an answer, writes ten times that.
    Raises StoreError.
    """

    def __init__(self, uri: str, token: str = "", *, timeout: float = 6.0) -> None:
        self._uri = uri
        self._token = token
        self._timeout = timeout
        self._opened: Any = None
        self._guard = threading.Lock()
        self.is_lite = _LITE.fullmatch(uri) is not None
        self._shown = uri if self.is_lite else without_secrets(uri)

    # --- collections --------------------------------------------------------------------------

    def ensure(self, name: str, dimension: int) -> None:
        """Makes the collection if there is none. Raises StoreError if its vectors are longer or
        shorter."""
        with self._explained():
            if self._client.has_collection(name, timeout=self._timeout):
                self._check_dimension(name, dimension)
                self._client.load_collection(name, timeout=self._timeout * 10)
            else:
                self._make(name, dimension)

    def _check_dimension(self, name: str, dimension: int) -> None:
        described = self._client.describe_collection(name, timeout=self._timeout)
        held = [f["params"]["dim"] for f in described["fields"] if f["name"] == "vector"]
        if [int(d) for d in held] != [dimension]:
            raise StoreError(
                f"The collection {name} at {self._shown} holds vectors of {held} dimensions,"
                f" not of {dimension}.",
                "Use the embedding model it was made with, or change it with: rag reindex",
            )

    def _make(self, name: str, dimension: int) -> None:
        from pymilvus import DataType

        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("document", DataType.INT64)
        schema.add_field("added_in", DataType.INT64)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
        index = self._client.prepare_index_params()
        kind: dict[str, Any] = {"index_type": "FLAT"}
        if not self.is_lite:
            kind = {"index_type": "HNSW", "params": _HNSW}
        index.add_index("vector", metric_type="IP", **kind)
        self._client.create_collection(
            name, schema=schema, index_params=index, timeout=self._timeout * 10
        )

    def names(self, prefix: str) -> list[str]:
        with self._explained():
            listed = self._client.list_collections(timeout=self._timeout)
        return [name for name in listed if name.startswith(prefix)]

    def drop(self, name: str) -> None:
        with self._explained():
            self._client.drop_collection(name, timeout=self._timeout * 10)

    # --- writing ------------------------------------------------------------------------------

    def insert(self, name: str, rows: Rows, *, again: bool) -> None:
        """`again` where Milvus may have some of them already."""
        data = [
            {"id": i, "document": document, "added_in": generation, "vector": vector}
            for i, document, generation, vector in zip(
                rows.ids, rows.documents, rows.added_in, rows.vectors, strict=True
            )
        ]
        with self._explained():
            write = self._client.upsert if again else self._client.insert
            write(name, data, timeout=self._timeout * 10)

    def delete(self, name: str, chunk_ids: Sequence[int]) -> None:
        """A collection that is not there holds nothing to delete."""
        try:
            with self._explained():
                for start in range(0, len(chunk_ids), _AT_ONCE):
                    some = list(chunk_ids[start : start + _AT_ONCE])
                    self._client.delete(name, ids=some, timeout=self._timeout * 10)
        except MissingCollectionError:
            return

    def delete_beyond(self, name: str, chunk_id: int) -> None:
        """All rows with a higher id."""
        with self._explained():
            self._client.delete(name, filter=f"id > {chunk_id}", timeout=self._timeout * 10)

    def settle(self, name: str) -> int:
        """Waits until searches see all that was written; returns the time of it, for `search`."""
        with self._explained():
            if self.is_lite:  # 20 times faster to search afterwards
                self._client.flush(name, timeout=self._timeout * 10)
            # pymilvus has no public way to Milvus's clock, and ours may be ahead of it.
            moment = _NOW if self.is_lite else self._client._get_connection().alloc_timestamp()
        self._query(name, "id < 0", ["id"], moment, timeout=self._timeout * 10)
        return int(moment)

    # --- asking -------------------------------------------------------------------------------

    def search(
        self, name: str, vector: Vector, limit: int, where: str, guarantee: int
    ) -> dict[int, float]:
        """The nearest `limit` rows that meet the condition: cosines by id, best first."""
        limit = min(limit, _MAX_LIMIT)
        (hits,) = self._asked(
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

    def count(self, name: str) -> int:
        rows = self._query(name, "", ["count(*)"], _NOW, timeout=self._timeout * 10)
        return int(rows[0]["count(*)"])

    def close(self) -> None:
        with self._guard:
            client, self._opened = self._opened, None
        if client is not None:
            client.close()

    def _query(
        self,
        name: str,
        where: str,
        fields: list[str],
        guarantee: int,
        timeout: float | None = None,
    ) -> Any:
        return self._asked(
            name,
            lambda client: client.query(
                name,
                filter=where,
                output_fields=fields,
                timeout=timeout or self._timeout,
                **self._from(guarantee),
            ),
        )

    def _asked(self, name: str, ask: Callable[[Any], Any]) -> Any:
        """Milvus Lite forgets what is loaded when it is opened anew; a server may be told to."""
        with self._explained():
            try:
                return ask(self._client)
            except Exception as error:  # pymilvus raises many kinds; all but this one go on up
                if not _is_not_loaded(error):
                    raise
            self._client.load_collection(name, timeout=self._timeout * 10)
            return ask(self._client)

    def _from(self, guarantee: int) -> dict[str, Any]:
        if self.is_lite or guarantee == _NOW:
            return {"consistency_level": "Strong"}
        return {"consistency_level": "Customized", "guarantee_timestamp": guarantee}

    # --- the connection -------------------------------------------------------------------------

    @property
    def _client(self) -> Any:
        with self._guard:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def _open(self) -> Any:
        try:
            from pymilvus import MilvusClient
        except ModuleNotFoundError:
            raise StoreError(
                "pymilvus, the client for Milvus, is not installed.",
                "pip install 'rag-server[milvus]'",
            ) from None
        # It logs what it raises, with tracebacks; we say it once, in our words.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        if self.is_lite:  # its server in this process has tracebacks of its own
            logging.getLogger("grpc").setLevel(logging.CRITICAL)
            logging.getLogger("milvus_lite").setLevel(logging.CRITICAL)
        return MilvusClient(uri=self._uri, token=self._token, timeout=self._timeout)

    def _explained(self) -> AbstractContextManager[None]:
        return explained(self._shown, (self._uri, self._token), is_lite=self.is_lite)


def _is_not_loaded(error: Exception) -> bool:
    return getattr(error, "code", None) == _NOT_LOADED or "'released'" in str(error)
