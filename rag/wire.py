"""The JSON form of what the library tells: one for `--json`, REST and server-sent events."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rag.errors import RagError
from rag.types import (
    Answer,
    AnswerEvent,
    Citation,
    Cited,
    Document,
    DocumentInfo,
    Failed,
    Finished,
    Held,
    Hit,
    Retried,
    Retrieved,
    Token,
    ToolUsed,
)


def event_json(event: AnswerEvent) -> tuple[str, dict[str, Any]]:
    """The event's name and its data."""
    match event:
        case Retrieved():
            hits = [hit_json(n, hit) for n, hit in enumerate(event.hits, 1)]
            return "retrieved", {"hits": hits, "seconds": event.seconds}
        case Token():
            return "token", {"text": event.text}
        case Cited():
            return "cited", citation_json(event.citation)
        case Retried():
            return "retried", asdict(event)
        case ToolUsed():
            return "tool_used", asdict(event)
        case Held():
            return "held", asdict(event)
        case Finished():
            return "finished", answer_json(event.answer)
        case Failed():
            return "failed", asdict(event)


def answer_json(answer: Answer) -> dict[str, Any]:
    return {
        "answer": answer.text,
        "refused": answer.refused,
        "citations": [citation_json(c) for c in answer.citations],
        "model": answer.model,
        "usage": asdict(answer.usage),
        "timings": asdict(answer.timings),
        "notice": answer.notice,
        "cached": answer.cached,
        "data": answer.data,
    }


def citation_json(citation: Citation) -> dict[str, Any]:
    return asdict(citation)


def hit_json(n: int, hit: Hit) -> dict[str, Any]:
    chunk = hit.chunk
    return {
        "n": n,
        "document_id": chunk.document_id,
        "document": hit.document,
        "title": hit.title,
        "page": chunk.page,
        "sheet": chunk.sheet,
        "row": chunk.row_between(chunk.start, chunk.end),
        "heading": chunk.heading,
        "text": chunk.text,
        "start": chunk.start,
        "end": chunk.end,
        "score": hit.score,
        "dense": hit.dense,
        "keyword": hit.keyword,
        "via": hit.via,
    }


def document_info_json(info: DocumentInfo) -> dict[str, Any]:
    shown = ("id", "name", "type", "title", "size", "tags", "chunks", "updated_at")
    return {key: getattr(info, key) for key in shown}


def document_json(document: Document) -> dict[str, Any]:
    shown = ("id", "name", "type", "title", "text", "size", "tags")
    return {key: getattr(document, key) for key in shown} | {
        "elements": [asdict(element) for element in document.elements]
    }


def error_json(error: RagError) -> dict[str, Any]:
    return {
        "error": {
            "code": error.code,
            "message": error.message,
            "hint": error.hint,
            "retryable": error.retryable,
        }
    }
