"""The text of a PDF page as pdfium has it, line by line, and where each character stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rag.load.pages.printed import Line

if TYPE_CHECKING:
    from pypdfium2 import PdfTextPage

_HYPHEN = re.compile("[\ufffe\x02]+$")  # pdfium's marks for one at the end of a line
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f\ufffe\uffff]")


def pieces_of(text_page: PdfTextPage) -> Iterator[PagePiece]:
    """The lines of a page in pdfium's order. Blank ones stay, those of nothing but marks do not."""
    position = 0
    for text in text_page.get_text_range().split("\n"):
        piece = PagePiece(text_page, text, position)
        if piece.line.text or not text.strip():
            yield piece
        position += _units(text) + 1


class PagePiece:
    """One of them; `text` is as pdfium gives it. Of use as long as the text page is open."""

    def __init__(self, text_page: PdfTextPage, text: str, position: int) -> None:
        """`position` in UTF-16 units, as pdfium counts."""
        from pypdfium2 import raw

        self.text = text
        self._page = text_page
        self._find = raw.FPDFText_GetCharIndexFromTextIndex
        self._position = position
        self._narrow = _units(text) == len(text)
        self.line = self.part(0, len(text))

    def part(self, start: int, end: int) -> Line:
        text = self.text[start:end]
        visible = _UNSEEN.sub("", _HYPHEN.sub("\u00ad", text.strip())).strip()
        if not visible:
            return Line("")
        first = self._index(start + len(text) - len(text.lstrip()))
        last = self._index(start + max(len(text) - len(text.lstrip()), len(text.rstrip()) - 1))
        return self._boxed(visible, first, last)

    def middles(self) -> Iterator[tuple[int, tuple[float, float]]]:
        """Of the boxes of its visible characters, by their place in `text`. It is asked for most
        characters of a page with tables, so it takes the shortest way."""
        from pypdfium2 import raw

        box, page, at = raw.FS_RECTF(), self._page.raw, self._index
        ask = raw.FPDFText_GetLooseCharBox
        for offset, character in enumerate(self.text):
            if not character.isspace() and ask(page, at(offset), box):
                yield offset, ((box.left + box.right) / 2, (box.bottom + box.top) / 2)

    def _index(self, offset: int) -> int:
        """-1 for what pdfium has put in without a box."""
        units = offset if self._narrow else _units(self.text[:offset])
        index: int = self._find(self._page.raw, self._position + units)
        return index

    def _boxed(self, text: str, first: int, last: int) -> Line:
        from pypdfium2 import raw

        count = self._page.count_chars()
        if not 0 <= first < count or not 0 <= last < count:
            return Line(text)
        left, first_bottom, _, top = self._page.get_charbox(first, loose=True)
        _, bottom, right, _ = self._page.get_charbox(last, loose=True)
        height = max(0.0, top - first_bottom)
        size = raw.FPDFText_GetFontSize(self._page, first)
        # Some programs write size 1 and scale the page; then only the box tells.
        told = 0.6 * height <= size <= 1.7 * height
        return Line(text, left, right, first_bottom, bottom, size if told else height)


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", errors="surrogatepass")) // 2
