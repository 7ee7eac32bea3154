"""Documents over HTTP."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Query, UploadFile

from api.dependencies import EngineDependency
from api.problems import PROBLEMS
from api.schemas import DeletedResponse, DocumentsResponse, IngestResponse
from rag.bases import DEFAULT
from rag.files import Upload
from rag.types import Filters
from rag.wire import document_info_json, document_json

router = APIRouter(prefix="/documents", tags=["documents"], responses=PROBLEMS)

KnowledgeBase = Annotated[str, Query(description="Name of the knowledge base.")]


@router.get("", response_model=DocumentsResponse)
def list_documents(
    engine: EngineDependency,
    knowledge_base: KnowledgeBase = DEFAULT,
    path: Annotated[list[str], Query()] = [],  # noqa: B006 - fastapi copies it
    tag: Annotated[list[str], Query()] = [],  # noqa: B006
    type: Annotated[list[str], Query()] = [],  # noqa: B006
) -> dict[str, Any]:
    """The documents of a knowledge base, by name. One that was never filled is empty."""
    if knowledge_base not in engine.names():
        return {"documents": [], "generation": 0}
    store = engine.store(knowledge_base)
    filters = Filters(paths=tuple(path), tags=tuple(tag), types=tuple(type))
    infos = store.documents(filters)
    return {
        "documents": [document_info_json(info) for info in infos],
        "generation": store.generation,
    }


@router.get("/{document_id}")
def show_document(
    document_id: str, engine: EngineDependency, knowledge_base: KnowledgeBase = DEFAULT
) -> dict[str, Any]:
    """A document's text and elements, so that a citation can be seen in its place.

    All offsets count Unicode code points.
    """
    return document_json(engine.store(knowledge_base).document(document_id))


@router.post("", response_model=IngestResponse)
def add_documents(
    files: Annotated[list[UploadFile], File(description="One or more documents.")],
    engine: EngineDependency,
    knowledge_base: Annotated[str, Form()] = DEFAULT,
    tags: Annotated[list[str] | None, Form()] = None,
) -> dict[str, Any]:
    """Add documents, or replace those of the same name. Each file fails or succeeds alone."""
    uploads = [Upload(f.filename or "", f.size or 0, f.file.read) for f in files]
    report = engine.ingest_uploads(uploads, knowledge_base=knowledge_base, tags=tags)
    return asdict(report)


@router.delete("/{document_id}", response_model=DeletedResponse)
def delete_document(
    document_id: str, engine: EngineDependency, knowledge_base: KnowledgeBase = DEFAULT
) -> dict[str, str]:
    """Remove a document. A file it came from stays where it is."""
    engine.remove([document_id], knowledge_base=knowledge_base)
    return {"deleted": document_id}
