"""What all origins share: a document that is not a file here, and limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rag.errors import FileTooLargeError
from rag.files import Loads
from rag.ingest import Failure
from rag.load import SUPPORTED_TYPES
from rag.types import Content

USER_AGENT = "rag-server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one address may bring, and how fast it is asked."""

    max_documents: int = 1000  # of one sitemap, repository or bucket
    max_total_bytes: int = 2_000_000_000
    max_depth: int = 3  # of sitemaps in sitemaps
    max_redirects: int = 5
    seconds: float = 30.0  # for one request as a whole
    git_seconds: float = 600.0  # for fetching a repository
    concurrency: int = 2
    delay: float = 0.5  # seconds between the starts of two requests of one host


@dataclass(frozen=True, slots=True)
class RemoteSource:
    """A document that is fetched when its turn comes. `file_name` has the extension of what it
    is; `name` is what a person sees."""

    uri: str
    name: str
    file_name: str
    fetch: Callable[[], bytes]
    max_bytes: int
    loads: Loads

    def read(self) -> bytes:
        data = self.fetch()
        check_size(self.name, len(data), self.max_bytes)
        return data

    def load(self, data: bytes) -> Content:
        return self.loads(Path(self.file_name), data, max_bytes=self.max_bytes)


def check_size(name: str, size: int, limit: int) -> None:
    """Raises FileTooLargeError."""
    if size > limit:
        raise FileTooLargeError(
            f"{name} has more than the {limit / 1e6:g} MB that are read.",
            "Leave it out, or raise RAG_MAX_FILE_MB.",
        )


def is_document(path: str) -> bool:
    """Whether its extension is one that is read, and no part of the path is hidden."""
    pure = PurePosixPath(path)
    hidden = any(part.startswith((".", "~$")) for part in pure.parts)
    return not hidden and pure.suffix.lower().removeprefix(".") in SUPPORTED_TYPES


def unsupported(name: str) -> Failure:
    kind = PurePosixPath(name).suffix.lower() or "no extension"
    return Failure(
        name,
        "unsupported_type",
        f"{name} is of a type that is not read ({kind}).",
        f"Supported: {', '.join(SUPPORTED_TYPES)}.",
    )
