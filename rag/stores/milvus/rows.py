"""Rows of the records, as the nouns they stand for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple
from typing import Any

from rag.types import Chunk, Document, DocumentInfo, Element

INFO = (
    *("id", "uri", "name", "type", "title", "content_hash", "settings_hash"),
    *("size", "tags", "chunks", "updated_at"),
)


def info_of(row: Any) -> DocumentInfo:
    """Of a row with the columns `INFO`."""
    values = {**row._mapping, "tags": tuple(json.loads(row.tags))}
    return DocumentInfo(**values)


def document_of(row: Any) -> Document:
    return Document(
        id=row.id,
        uri=row.uri,
        name=row.name,
        type=row.type,
        title=row.title,
        text=row.text,
        elements=tuple(
            Element(kind, start, end, tuple(heading), *rest)
            for kind, start, end, heading, *rest in json.loads(row.elements)
        ),
        content_hash=row.content_hash,
        settings_hash=row.settings_hash,
        size=row.size,
        tags=tuple(json.loads(row.tags)),
    )


def chunk_of(row: Any) -> Chunk:
    """Of a chunk's row with its document's id as `document_id`."""
    return Chunk(
        document_id=row.document_id,
        ordinal=row.ordinal,
        start=row.start,
        end=row.end,
        text=row.text,
        context=row.context,
        heading=tuple(json.loads(row.heading)),
        page=row.page,
        sheet=row.sheet,
        rows=tuple((start, end, number) for start, end, number in json.loads(row.rows)),
    )


def columns_of(document: Document) -> dict[str, Any]:
    """What `document_of` reads."""
    elements = [astuple(element) for element in document.elements]
    return {
        "id": document.id,
        "uri": document.uri,
        "name": document.name,
        "type": document.type,
        "title": document.title,
        "text": document.text,
        "elements": json.dumps(elements),
        "content_hash": document.content_hash,
        "settings_hash": document.settings_hash,
        "size": document.size,
        "tags": json.dumps(document.tags),
    }


def columns_of_chunk(chunk: Chunk) -> dict[str, Any]:
    """What `chunk_of` reads, but the document's id."""
    return {
        "ordinal": chunk.ordinal,
        "start": chunk.start,
        "end": chunk.end,
        "text": chunk.text,
        "context": chunk.context,
        "heading": json.dumps(chunk.heading),
        "page": chunk.page,
        "sheet": chunk.sheet,
        "rows": json.dumps(chunk.rows),
    }


def text_digest(text: str) -> bytes:
    """By which a text that has a vector is found again."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
