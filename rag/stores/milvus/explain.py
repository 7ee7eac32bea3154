"""Errors of pymilvus, as ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from rag.errors import BusyError, DamagedStoreError, StoreError

_NOT_FOUND = 100
_REFUSED = re.compile(r"unauthenticated|auth check failure|api key|permission ?denied")


class MissingCollectionError(DamagedStoreError):
    """Milvus does not have the collection (any more)."""


@contextmanager
def explained(shown: str, secrets: Sequence[str], *, is_lite: bool) -> Iterator[None]:
    """Raises StoreError without the secrets; `shown` stands for Milvus's address."""
    try:
        yield
    except (StoreError, ImportError):
        raise
    except Exception as error:  # noqa: BLE001 - pymilvus lets gRPC's, and plain ones, through
        # Why a connection failed is told by the cause only.
        told = (error, error.__cause__ or error.__context__)
        texts = [_clean(str(getattr(e, "message", "") or e), secrets) for e in told if e]
        is_missing = getattr(error, "code", None) == _NOT_FOUND
        raise _as_ours(texts, shown, is_lite=is_lite, is_missing=is_missing) from None


def _as_ours(texts: Sequence[str], shown: str, *, is_lite: bool, is_missing: bool) -> StoreError:
    lower = " ".join(texts).lower()
    if is_missing or "collection not found" in lower:
        return MissingCollectionError(
            f"A collection of this knowledge base is not in Milvus at {shown}.",
            "Was its data deleted? Restore Milvus's data, or embed anew: rag repair",
        )
    if "milvus-lite is required" in lower:
        return StoreError(
            "Milvus Lite is not installed.", "pip install 'rag-server[milvus]' milvus-lite"
        )
    if is_lite and ("lock" in lower or "open local milvus" in lower):
        return BusyError(
            f"Milvus Lite's file {shown} is open in another process.",
            "Only one process can use it at a time; for more, run a Milvus server.",
        )
    if not is_lite and _REFUSED.search(lower):
        return StoreError(
            f"Milvus at {shown} does not accept the token.",
            "Give the right one with RAG_MILVUS_TOKEN, as user:password or an API key.",
        )
    return StoreError(
        f"Milvus at {shown} cannot be used: {texts[0][:200]}.",
        "Is it running? Check RAG_MILVUS_URI; after a start it needs a few seconds.",
    )


def _clean(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return " ".join(text.split())


def without_secrets(uri: str) -> str:
    """Scheme, host and port only."""
    try:
        parts = urlsplit(uri)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "its address"
    return f"{parts.scheme}://{parts.hostname}{port}" if parts.hostname else "its address"
