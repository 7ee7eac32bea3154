"""Tables of pages, of which one may go on where the page is turned."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from rag.load.build import Builder, row_line
from rag.load.headers import header_place
from rag.load.pages.printed import Line, Table, same_columns

_NEAR = 3.0  # points
_AT_EDGE = 3  # lines at the head and at the foot of a page that others may have too
_CAPTION = re.compile(r"(?:表|table)\s*[\d一二三四五六七八九十]", re.IGNORECASE)
_GOES_ON = re.compile(r"续表|[（(]\s*(?:续|cont(?:inued|['’]?d)?\.?)\s*[）)]", re.IGNORECASE)


class Tables:
    """Adds tables to `builder`. One that has the columns of the last table of the page before, with
    nothing between them but what stands on every page, goes on with its rows and its header."""

    def __init__(self, builder: Builder, pages: Sequence[Sequence[Line | Table]]) -> None:
        self._builder = builder
        self._on_every_page = _on_every_page(pages)
        self._edges: tuple[float, ...] = ()  # of the last table, while it may go on
        self._page = 0
        self._header: tuple[str, ...] = ()
        self._rows = 0

    def passed(self, lines: Iterable[Line]) -> None:
        """Text that came after the last table."""
        if self._edges and any(self._parts(line.text) for line in lines):
            self._edges = ()

    def add(self, table: Table, page: int) -> None:
        """Pages count from 1."""
        if page != self._page + 1 or not same_columns(self._edges, table.edges):
            self._builder.table(table.rows)
            self._header = table.rows[header_place(table.rows)]
            self._rows = len(table.rows)
        else:
            rows = self._without_header(table.rows)
            for number, row in enumerate(rows, self._rows + 1):
                self._builder.row(row_line(row), "row", number)
            self._rows += len(rows)
        self._edges, self._page = table.edges, page

    def _without_header(self, rows: Sequence[tuple[str, ...]]) -> Sequence[tuple[str, ...]]:
        place = header_place(rows)
        return rows[place + 1 :] if rows[place] == self._header else rows

    def _parts(self, text: str) -> bool:
        """Whether a table ends where this stands."""
        if not text or _GOES_ON.search(text):
            return False
        return bool(_CAPTION.match(text)) or _key(text) not in self._on_every_page


def _on_every_page(pages: Sequence[Sequence[Line | Table]]) -> set[str]:
    """What stands at the head or foot of at least two pages, and page numbers."""
    seen: Counter[str] = Counter()
    for page in pages:
        lines = [block for block in page if isinstance(block, Line) and block.text]
        seen.update({_key(line.text) for line in (*_edge(lines), *_edge(lines[::-1]))})
    return {"", *(key for key, count in seen.items() if count > 1)}


def _edge(lines: Sequence[Line]) -> Iterator[Line]:
    """The first ones, those side by side counted once: pdfium may give a line letter by letter."""
    heights: list[float] = []
    for line in lines:
        if not (line.size and heights and abs(heights[-1] - line.first_bottom) <= _NEAR):
            heights.append(line.first_bottom)
        if len(heights) > _AT_EDGE:
            return
        yield line


def _key(text: str) -> str:
    """The same for `page 1 of 9` and `page 2 of 9`; empty for a number."""
    return re.sub(r"[\d\W_]+", "", text)
