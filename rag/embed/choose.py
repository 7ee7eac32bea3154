"""Which embedding model is used: the first of the preferences that is to be had here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag.config import BUNDLED_MODEL, Settings
from rag.embed.bundled import BundledEmbedder
from rag.embed.openai import PREFIX, EndpointEmbedder
from rag.embed.sentence import SentenceEmbedder
from rag.errors import EmbedderUnavailableError, FingerprintError

if TYPE_CHECKING:
    from rag.embed.prepare import Progress
    from rag.types import Embedder, Fingerprint

_REBUILD = "rag reindex --embedding NAME"


@dataclass(frozen=True, slots=True)
class Choice:
    """A model, and in one line which it is and why none before it in the list."""

    embedder: Embedder
    reason: str


def choose_embedder(
    settings: Settings, recorded: Fingerprint | None, progress: Progress | None = None
) -> Choice:
    """The model for a knowledge base.

    A new one (`recorded` is None) takes the first of `settings.embedding` that is available. One
    that exists keeps the model it was built with, wherever that stands in the list. `progress` is
    told of the bundled model's preparation.
    Raises EmbedderUnavailableError, or FingerprintError if the model has changed since.
    """
    if recorded is None:
        return _first_available(settings, progress)
    try:
        embedder = open_embedder(recorded.model, settings, progress)
    except EmbedderUnavailableError as error:
        raise EmbedderUnavailableError(
            f"The knowledge base was built with {recorded.model}, which is not available here: "
            f"{error.message}",
            f"{error.hint} Or embed it again with another model: {_REBUILD}".strip(),
        ) from error
    check_fingerprint(recorded, embedder.fingerprint)
    return Choice(embedder, f"{_describe(recorded.model)}: the knowledge base was built with it")


def open_embedder(model: str, settings: Settings, progress: Progress | None = None) -> Embedder:
    """One entry of `settings.embedding`: the bundled model's name, "openai:" and the name of a
    server's model, the path of a folder, or a name on the hub.

    A key is sent only to the server it was set for: RAG_EMBEDDING_API_KEY goes with
    RAG_EMBEDDING_BASE_URL, OPENAI_API_KEY with OPENAI_BASE_URL.
    Raises EmbedderUnavailableError.
    """
    threads = settings.embedding_threads
    if model == BUNDLED_MODEL:
        return BundledEmbedder(settings.cache_dir, threads=threads, progress=progress)
    if model.startswith(PREFIX):
        url = settings.embedding_base_url or settings.openai_base_url
        key = settings.embedding_api_key
        if settings.embedding_base_url in (None, settings.openai_base_url):
            key = key or settings.openai_api_key
        return EndpointEmbedder(
            url, key.get_secret_value() if key else None, model.removeprefix(PREFIX)
        )
    return SentenceEmbedder(model, hub=settings.hub, threads=threads)


def check_fingerprint(recorded: Fingerprint, offered: Fingerprint) -> None:
    """Raises FingerprintError, naming both, unless the vectors can be compared."""
    if recorded != offered:
        raise FingerprintError(
            f"The knowledge base holds vectors of {_name(recorded)}; the model here is "
            f"{_name(offered)}.",
            f"Bring back the first, or embed everything again: {_REBUILD}",
        )


def _first_available(settings: Settings, progress: Progress | None) -> Choice:
    failures: list[str] = []
    for model in settings.embedding:
        try:
            embedder = open_embedder(model, settings, progress)
        except EmbedderUnavailableError as error:
            failures.append(_one_line(error))
        else:
            return Choice(
                embedder, ": ".join(filter(None, (_describe(model), "; ".join(failures))))
            )
    raise EmbedderUnavailableError(
        f"No embedding model is available: {'; '.join(failures) or 'none is named'}.",
        f"Set RAG_EMBEDDING, for instance to '[\"{BUNDLED_MODEL}\"]'.",
    )


def _one_line(error: EmbedderUnavailableError) -> str:
    hint = f" ({error.hint.rstrip('.')})" if error.hint else ""
    return error.message.rstrip(".") + hint


def _describe(model: str) -> str:
    return f"{model} (bundled)" if model == BUNDLED_MODEL else model


def _name(fingerprint: Fingerprint) -> str:
    prefixes = f"{fingerprint.query_prefix!r}/{fingerprint.document_prefix!r}"
    normalized = "normalised" if fingerprint.normalized else "not normalised"
    return (
        f"{fingerprint.model} ({fingerprint.revision}, {fingerprint.dimension} dimensions, "
        f"{normalized}, prefixes {prefixes})"
    )
