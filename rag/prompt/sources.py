"""Hits as numbered blocks of quoted data."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rag.text import estimate_tokens
from rag.types import Hit

MIN_SOURCE_TOKENS = 48

_NO_MARKUP = str.maketrans('"<>', "'‹›")
_TAG = re.compile(r"<(?=\s*/?\s*source)", re.IGNORECASE)


def source_block(number: int, hit: Hit) -> str:
    """The hit as source [`number`]: where it is from, its context, its whole text."""
    return _block(number, hit, hit.chunk.text)


def sources_text(start: int, hits: Sequence[Hit], *, budget: int) -> tuple[str, tuple[Hit, ...]]:
    """Blocks numbered from `start`, and the hits in them: the first ones, within `budget` tokens.

    The first hit is always in; the last one in may be cut, and ends in "…" then.
    """
    blocks: list[str] = []
    for number, hit in enumerate(hits, start):
        block = source_block(number, hit)
        cost = estimate_tokens(block)
        if cost > budget:
            # A wide character is a token, so this many characters always fit.
            fitting = budget - estimate_tokens(_block(number, hit, "…"))
            if blocks and fitting < MIN_SOURCE_TOKENS:
                break
            block = _block(number, hit, hit.chunk.text[: max(fitting, MIN_SOURCE_TOKENS)] + "…")
            cost = estimate_tokens(block)
        blocks.append(block)
        budget -= cost
    return "".join(blocks), tuple(hits[: len(blocks)])


def _block(number: int, hit: Hit, text: str) -> str:
    place = [f'document="{_attribute(hit.document)}"']
    if hit.chunk.page is not None:
        place.append(f'page="{hit.chunk.page}"')
    if hit.chunk.sheet is not None:
        place.append(f'sheet="{_attribute(hit.chunk.sheet)}"')
    return (
        f'<source n="{number}" {" ".join(place)}>\n'
        f"{_quoted(hit.chunk.context)}\n{_quoted(text)}\n</source>\n"
    )


def _quoted(text: str) -> str:
    """Text that cannot close its source or open another."""
    return _TAG.sub("<\u200b", text)


def _attribute(text: str) -> str:
    """Text that cannot end its attribute."""
    return " ".join(text.translate(_NO_MARKUP).split())
