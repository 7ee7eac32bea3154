"""How text becomes the words of the keyword index, the same way for chunks and questions."""

from __future__ import annotations

import re
import unicodedata

# Part of the keyword index's name: another recipe is another index.
WORDS_VERSION = "1"

_WORD = re.compile(r"[^\W_]+(?:['’.\-_][^\W_]+)*")
_MAX_LENGTH = 64


def words(text: str) -> list[str]:
    """Lower-case words, Chinese cut by a dictionary in search mode, in the order of the text."""
    import rjieba

    text = unicodedata.normalize("NFKC", text).lower()
    return [w[:_MAX_LENGTH] for w in rjieba.cut_for_search(text) if _WORD.match(w)]
