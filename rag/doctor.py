"""Is everything there that an installation needs, and what to do if not."""

from __future__ import annotations

import importlib.util
import os
import platform
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rag.config import Settings
from rag.engine import Engine
from rag.errors import RagError


@dataclass(frozen=True)
class Finding:
    state: Literal["ok", "note", "bad"]
    what: str
    detail: str
    hint: str = ""


def examine(settings: Settings) -> list[Finding]:
    """What was found, in the order a person would look."""
    return [
        Finding("ok", "python", f"{platform.python_version()} on {sys.platform}"),
        Finding("ok", "sqlite", sqlite3.sqlite_version),
        *_places(settings),
        *_extras(),
        *_model(settings),
        *_knowledge_bases(settings),
    ]


def _places(settings: Settings) -> Iterator[Finding]:
    for what, path in (("indexes", settings.indexes), ("cache", settings.cache_dir)):
        existing = path
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        if os.access(existing, os.W_OK):
            yield Finding("ok", what, str(path))
        else:
            name = "RAG_INDEXES" if what == "indexes" else "RAG_CACHE_DIR"
            yield Finding("bad", what, f"{path} cannot be written", f"Choose another with {name}.")


def _extras() -> Iterator[Finding]:
    if importlib.util.find_spec("sentence_transformers"):
        yield Finding("ok", "sentence-transformers", "installed: m3e and others can be used")
    else:
        yield Finding(
            "note",
            "sentence-transformers",
            "not installed: the bundled embedding model is used",
            'For m3e: pip install "rag-server[m3e]"',
        )


def _model(settings: Settings) -> Iterator[Finding]:
    if settings.model is None:
        yield Finding(
            "note",
            "chat model",
            "none: answers are quoted passages",
            "Set OPENAI_API_KEY (and OPENAI_BASE_URL), and RAG_MODEL to the model's name.",
        )
    elif settings.openai_api_key is None and settings.openai_base_url is None:
        yield Finding(
            "bad",
            "chat model",
            f"{settings.model}, but there is no way to it",
            "Set OPENAI_API_KEY, or OPENAI_BASE_URL for a server of your own.",
        )
    else:
        where = settings.openai_base_url or "OpenAI"
        key = "with a key" if settings.openai_api_key else "without a key"
        yield Finding("ok", "chat model", f"{settings.model} at {where}, {key}")


def _knowledge_bases(settings: Settings) -> Iterator[Finding]:
    engine = Engine(settings)
    try:
        for name in engine.names():
            try:
                base = engine.knowledge_base(name)
            except RagError as error:
                yield Finding("bad", f"knowledge base {name}", error.message, error.hint)
            else:
                count = len(base.store.documents())
                model = base.embedder.fingerprint.model
                yield Finding("ok", f"knowledge base {name}", f"{count} documents, {model}")
        if not engine.names():
            yield Finding("note", "knowledge base", "none yet", "Make one: rag ingest ./knowledge")
    finally:
        engine.close()
