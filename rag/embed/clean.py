"""Text as every tokenizer and server can take it."""

from __future__ import annotations


def encodable(text: str) -> str:
    """`text` with each lone surrogate, which no UTF-8 can hold, as a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")
