"""txtai: its hybrid index with stored content."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rag.types import Matrix, Vector

LABEL = "txtai"


def build(texts: Sequence[str], vectors: Matrix) -> Callable[[str, Vector, int], Sequence[str]]:
    import numpy as np
    from txtai import Embeddings

    known: dict[str, Any] = dict(zip(texts, vectors, strict=True))

    def look_up(wanted: Sequence[str]) -> Any:
        return np.array([known[text] for text in wanted], np.float32)

    index = Embeddings(
        method="external", transform=look_up, hybrid=True, content=True, normalize=False
    )
    index.index((place, text, None) for place, text in enumerate(texts))

    def ask(question: str, vector: Vector, top: int) -> Sequence[str]:
        known[question] = vector
        return [hit["text"] for hit in index.search(question, top)]

    return ask
