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
        *_parts(settings),
    ]


def _parts(settings: Settings) -> Iterator[Finding]:
    engine = Engine(settings)
    try:
        yield from _models(engine)
        yield from _databases(engine)
        yield from _knowledge_bases(engine)
    finally:
        engine.close()


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


def _models(engine: Engine) -> Iterator[Finding]:
    gateway = engine.gateway
    if not gateway.configured:
        yield Finding(
            "note",
            "chat model",
            "none: answers are quoted passages",
            "Set OPENAI_API_KEY (and OPENAI_BASE_URL), and RAG_MODEL to the model's name.",
        )
    for name in gateway.configured:
        try:
            resolved = gateway.opened(name).resolved
        except RagError as error:
            yield Finding("bad", "chat model", error.message, error.hint)
        else:
            where = resolved.base_url or "OpenAI"
            key = resolved.key_labels[0] if resolved.keys else "without a key"
            yield Finding("ok", "chat model", f"{name} at {where}, {key}")


def _databases(engine: Engine) -> Iterator[Finding]:
    places = engine.bases.places
    if engine.settings.database_url is not None:
        try:
            places.reach_database()
        except RagError as error:
            yield Finding("bad", "application database", error.message, error.hint)
        else:
            yield Finding("ok", "application database", "it answers")
    try:
        if places.reach_milvus():
            yield Finding("ok", "Milvus", "it answers")
    except RagError as error:
        yield Finding("bad", "Milvus", error.message, error.hint)


def _knowledge_bases(engine: Engine) -> Iterator[Finding]:
    try:
        names = engine.names()
    except RagError:  # the database does not answer, which has been said
        return
    for name in names:
        try:
            base = engine.knowledge_base(name)
        except RagError as error:
            yield Finding("bad", f"knowledge base {name}", error.message, error.hint)
        else:
            count = engine.bases.size(name).documents
            model = base.embedder.fingerprint.model
            yield Finding("ok", f"knowledge base {name}", f"{count} documents, {model}")
    if not names:
        yield Finding("note", "knowledge base", "none yet", "Make one: rag ingest ./knowledge")
