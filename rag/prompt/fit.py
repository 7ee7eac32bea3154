"""Text cut to a number of tokens, as estimated."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from rag.text import estimate_tokens

_MAX_CHARACTERS_PER_TOKEN = 4


def head(text: str, tokens: int) -> str:
    """The longest beginning of at most `tokens`."""
    text = text[: max(tokens, 0) * _MAX_CHARACTERS_PER_TOKEN]
    return text[: _longest(text, tokens, lambda n: text[:n])]


def tail(text: str, tokens: int) -> str:
    """The longest end of at most `tokens`."""
    text = text[max(len(text) - max(tokens, 0) * _MAX_CHARACTERS_PER_TOKEN, 0) :]
    return text[len(text) - _longest(text, tokens, lambda n: text[len(text) - n :]) :]


def _longest(text: str, tokens: int, piece: Callable[[int], str]) -> int:
    lengths = range(1, len(text) + 1)
    return bisect_right(lengths, tokens, key=lambda n: estimate_tokens(piece(n)))
