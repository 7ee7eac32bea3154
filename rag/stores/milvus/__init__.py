"""A knowledge base at scale: records in the application database, vectors in Milvus.

The application database decides what is seen, as the database of an embedded knowledge base does:
a document belongs to every generation from `added_in` until before `removed_in`, and publishing
raises one number. Milvus holds a row for each chunk that a kept generation shows, or will show:
bringing a generation back changes the records alone. Vectors wait in the records until Milvus
has them, so nothing that was embedded is lost when either dies.

Keywords come from a tantivy index of our own on every machine, derived from the application
database; or from Milvus, where it can rank by BM25 and is asked to. Scores mean the same in both.
"""

from __future__ import annotations

from rag.stores.milvus.base import knowledge_bases
from rag.stores.milvus.store import MilvusStore

__all__ = ["MilvusStore", "knowledge_bases"]
