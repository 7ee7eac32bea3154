"""A knowledge base in a folder: SQLite is the truth, FAISS and tantivy are caches beside it."""

from __future__ import annotations

from rag.stores.embedded.store import EmbeddedStore

__all__ = ["EmbeddedStore"]
