"""How the server is."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from api.dependencies import EngineDependency
from api.schemas import HealthResponse, StatusResponse
from rag import __version__
from rag.errors import ConfigError
from rag.types import EXTRACTIVE

router = APIRouter(tags=["status"])


@router.get("/healthz", response_model=HealthResponse)
def health() -> dict[str, str]:
    """Answers as soon as the server can be asked."""
    return {"status": "ok", "version": __version__}


@router.get("/status", response_model=StatusResponse)
def status(engine: EngineDependency) -> dict[str, Any]:
    """The chat model, and the knowledge bases with their sizes."""
    return {
        "version": __version__,
        "model": _model(engine),
        "knowledge_bases": [_knowledge_base(engine, name) for name in engine.names()],
    }


def _model(engine: EngineDependency) -> dict[str, Any]:
    """The model that is asked first; `reads_images` if any that may be asked sees."""
    sees = [_sees(engine, name) for name in engine.gateway.configured]
    return {
        "name": next(iter(engine.gateway.configured), EXTRACTIVE),
        "vision": bool(sees) and sees[0],
        "extractive": not sees,
        "reads_images": any(sees) or engine.reads_images,
        "ocr": engine.reads_images,
    }


def _sees(engine: EngineDependency, name: str) -> bool:
    try:
        return engine.gateway.opened(name).resolved.abilities.vision
    except ConfigError:  # told whoever asks it, and by `rag doctor`
        return False


def _knowledge_base(engine: EngineDependency, name: str) -> dict[str, Any]:
    store = engine.store(name)
    size = engine.bases.size(name)
    fingerprint = store.fingerprint
    return {
        "name": name,
        "documents": size.documents,
        "chunks": size.chunks,
        "generation": store.generation,
        "embedding": fingerprint.model if fingerprint else "",
    }
