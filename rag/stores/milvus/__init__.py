"""A knowledge base at scale: records in the application database, vectors in Milvus.

The application database decides what is seen, as the database of an embedded knowledge base does:
a document belongs to every generation from `added_in` until before `removed_in`, and publishing
raises one number. Milvus holds a row for each chunk (id, document, generation it came in, vector),
written before its generation is published. Vectors wait in the application database until Milvus
has them, so nothing that was embedded is lost when either dies.

Keywords come from a tantivy index of our own on every machine, derived from the application
database: scores then mean the same as in an embedded knowledge base, whatever Milvus can do.
"""

from __future__ import annotations

from rag.stores.milvus.records import knowledge_bases
from rag.stores.milvus.store import MilvusStore

__all__ = ["MilvusStore", "knowledge_bases"]
