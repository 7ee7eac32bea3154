"""What can be wrong with a knowledge base, whichever store it is in, and how it is told."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rag.types import Fingerprint

if TYPE_CHECKING:
    from rag.types import Matrix

Embed = Callable[[Fingerprint, Sequence[str]], "Matrix"]
Kind = Literal["database", "document", "chunk", "vector", "vector index", "keyword index"]

# float32 vectors of unit length are off by less than 1e-6; embedders that round lose 1e-4.
_OFF = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be. `what` is a sentence for an operator.

    `document` is the document's name and `chunk` the place of the chunk in it, from 0, where the
    finding is about one.
    """

    kind: Kind
    what: str
    document: str = ""
    chunk: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Counts are of what is visible; the indexes' are of what they hold of it."""

    findings: tuple[Finding, ...]
    generation: int = 0
    documents: int = 0
    chunks: int = 0
    vectors: int = 0
    in_vector_index: int = 0
    in_keyword_index: int = 0

    @property
    def ok(self) -> bool:
        return not self.findings


@dataclass(slots=True)
class Repaired:
    """What was done, in sentences for an operator; nothing, if nothing was amiss.

    `read_again`: names (or uris) of the documents that could not be saved whole and are not in the
    knowledge base until the next ingest reads them. `kept` is the damaged database.
    """

    done: list[str] = field(default_factory=list)
    read_again: list[str] = field(default_factory=list)
    embedded: int = 0
    kept: Path | None = None


@dataclass(frozen=True, slots=True)
class BadVector:
    chunk_id: int
    ordinal: int
    why: str


@dataclass(frozen=True, slots=True)
class Examined:
    """One document row. `faults` make it useless; bad vectors alone can be made again."""

    key: int
    name: str
    uri: str
    visible: bool
    chunk_ids: tuple[int, ...]
    faults: tuple[tuple[int | None, str], ...]  # the chunk's ordinal, what is wrong
    bad_vectors: tuple[BadVector, ...]


def findings_of(examined: Examined) -> Iterator[Finding]:
    name = examined.name
    for ordinal, why in examined.faults:
        if ordinal is None:
            yield Finding(kind="document", document=name, what=f"The document {name} {why}.")
        else:
            what = f"Chunk {ordinal} of {name} {why}."
            yield Finding(kind="chunk", document=name, chunk=ordinal, what=what)
    for bad in examined.bad_vectors:
        what = f"Chunk {bad.ordinal} of {name} {bad.why}."
        yield Finding(kind="vector", document=name, chunk=bad.ordinal, what=what)


def row_faults(
    text: object,
    count: int,
    chunks: Sequence[tuple[Any, ...]],
    digest_of: Callable[[str], bytes],
) -> Iterator[tuple[int | None, str]]:
    """What is wrong with a document of `count` chunks: the chunk's ordinal, if it is about one.

    Of a chunk: id, ordinal, start, end, text, context, digest of its text, and more.
    """
    if not isinstance(text, str):
        yield None, "has no readable text"
        return
    if [chunk[1] for chunk in chunks] != list(range(count)):
        yield None, f"should have chunks 0 to {count - 1} and has {_few([c[1] for c in chunks])}"
    for _, ordinal, start, end, piece, context, digest, *_ in chunks:
        if not isinstance(piece, str) or not isinstance(context, str):
            yield ordinal, "has no readable text"
        elif text[start:end] != piece:
            yield ordinal, f"is not found at characters {start} to {end} of the document's text"
        elif digest_of(f"{context}\n{piece}" if context else piece) != digest:
            yield ordinal, "does not have the text that it was embedded for"


def _few(numbers: list[int]) -> str:
    if not numbers:
        return "none"
    shown = ", ".join(map(str, numbers[:5]))
    return f"{len(numbers)} ({shown}{', ...' if len(numbers) > 5 else ''})"


def vector_fault(blob: bytes | None, crc: int | None, fingerprint: Fingerprint) -> str:
    """Empty if the vector is what was written, and as the model's must be."""
    import numpy as np

    if blob is None:
        return "has no vector"
    if not isinstance(blob, bytes) or len(blob) != 4 * fingerprint.dimension:
        return f"has a vector of another size than {fingerprint.dimension} numbers"
    vector = np.frombuffer(blob, dtype="<f4").astype(np.float64)
    if not np.isfinite(vector).all():
        return "has a vector with numbers that are none"
    length = float(np.sqrt(vector @ vector))
    if fingerprint.normalized and abs(length - 1) > _OFF:
        return f"has a vector of length {length:.3g} instead of 1"
    if crc is not None and zlib.crc32(blob) != crc:
        return "has a vector that was changed on the disk"
    return ""
