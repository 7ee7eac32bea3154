"""Document -> Chunks, along the document's structure and the sentences of Chinese and English."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import TYPE_CHECKING

from rag.types import Chunk, Document, Element

if TYPE_CHECKING:
    from langchain_text_splitters import RecursiveCharacterTextSplitter

SPLITTER_VERSION = "3"

# Tried in this order; each separator stays at the end of the piece before it.
SEPARATORS = (
    r"\n[ \t]*\n\s*",
    r"\n",
    r"(?<=[|\t])",
    r"(?<=[。！？…])(?![。！？…”’」』）】])|(?<=[。！？…][”’」』）】])",
    r"(?<=[.!?])\s+",
    r"(?<=[；，;,])",
    r"\s+",
)
_SENTENCE_END = re.compile(
    r"[。！？…]+[”’」』）】]*|[.!?]+[\"')\]]*(?=\s)|\n\s*",
)

# A block that must stay whole may exceed the chunk size this many times; beyond, it is cut at line
# ends, because no prompt could hold it.
_WHOLE_BLOCK_LIMIT = 8
_MAX_CONTEXT_CHARACTERS = 240
_MAX_HEADER_CHARACTERS = 300  # with a full chunk about what most models take
_CELL_ENDS = ("|", "\t", ",", ";")


@dataclass(frozen=True, slots=True)
class _Unit:
    """A stretch of text that stays together. `free` if a sentence may be repeated from it."""

    start: int
    end: int
    tokens: int
    free: bool


class Splitter:
    """Cuts documents into chunks of at most `size` tokens.

    A chunk never crosses a heading, a page, a slide or a sheet, so its heading path and page hold
    for every character of it. A table row or a fenced code block is never cut unless it is longer
    than eight chunks. Neighbouring chunks of running text share whole sentences of up to `overlap`
    tokens. Chunk boundaries carry no white space; everything else of the text is in some chunk, but
    for headings, which go into the context of what stands below them.
    """

    def __init__(self, count_tokens: Callable[[str], int], *, size: int, overlap: int) -> None:
        from langchain_text_splitters import RecursiveCharacterTextSplitter

        self._count = count_tokens
        self._size = size
        self._overlap = min(overlap, size // 2)
        self._text_splitter: RecursiveCharacterTextSplitter = RecursiveCharacterTextSplitter(
            separators=[*SEPARATORS, ""],
            is_separator_regex=True,
            keep_separator="end",
            chunk_size=size - self._overlap,
            chunk_overlap=0,
            # A piece of no tokens would come twice, and all offsets after it be wrong.
            length_function=lambda text: max(count_tokens(text), 1),
            strip_whitespace=False,
        )

    @property
    def settings(self) -> str:
        """Changes whenever the same document would be cut differently."""
        return f"split-{SPLITTER_VERSION}/{self._size}/{self._overlap}"

    def split(self, document: Document) -> list[Chunk]:
        chunks: list[Chunk] = []
        headers, columns = _headers(document.elements), _Columns(document.text)
        for section in _sections(document):
            ends = [element.end for element in section]
            for group in self._groups(document.text, section):
                start, end = _trim(document.text, group[0].start, group[-1].end)
                if start == end:
                    continue
                rows = _rows(section, bisect_right(ends, start), end)
                header = headers[rows[0].start] if rows else None
                named = ""
                if header is not None and header != rows[0]:
                    named = columns.above(header, rows[0], start)
                chunks.append(
                    Chunk(
                        document_id=document.id,
                        ordinal=len(chunks),
                        start=start,
                        end=end,
                        text=document.text[start:end],
                        context=_context(document, section[0], named),
                        heading=_path(document.text, section[0]),
                        page=section[0].page,
                        sheet=section[0].sheet,
                        rows=tuple((e.start, e.end, e.row) for e in rows if e.row is not None),
                    )
                )
        return chunks

    def _groups(self, text: str, section: Sequence[Element]) -> Iterator[list[_Unit]]:
        """Packs a section's units into chunks, greedily."""
        room = self._size - self._overlap
        group: list[_Unit] = []
        filled = 0
        for unit in self._units(text, section):
            if group and filled + unit.tokens > room:
                yield group
                group, filled = self._repeated(text, group, unit), 0
            group.append(unit)
            filled += unit.tokens
        if group:
            yield group

    def _repeated(self, text: str, group: list[_Unit], following: _Unit) -> list[_Unit]:
        """The last sentences of `group`, up to the overlap, if running text goes on after it."""
        last = group[-1]
        if not (self._overlap and last.free and following.free):
            return []
        ends = [last.start + m.end() for m in _SENTENCE_END.finditer(text[last.start : last.end])]
        for start in ends:
            if start < last.end and text[start : last.end].strip():
                tokens = self._count(text[start : last.end])
                if tokens <= self._overlap:
                    return [_Unit(start, last.end, tokens, True)]
        return []

    def _units(self, text: str, section: Sequence[Element]) -> Iterator[_Unit]:
        for whole, run in groupby(section, key=lambda e: e.kind in ("code", "row", "header")):
            elements = list(run)
            if not whole:
                yield from self._text_units(text, elements[0].start, elements[-1].end)
                continue
            for element in elements:
                yield from self._whole_units(text, element)

    def _text_units(self, text: str, start: int, end: int) -> Iterator[_Unit]:
        for piece in self._text_splitter.split_text(text[start:end]):
            yield _Unit(start, start + len(piece), self._count(piece), True)
            start += len(piece)

    def _whole_units(self, text: str, element: Element) -> Iterator[_Unit]:
        piece = text[element.start : element.end]
        tokens = self._count(piece)
        if tokens <= self._size * _WHOLE_BLOCK_LIMIT:
            yield _Unit(element.start, element.end, tokens, False)
        else:
            yield from self._text_units(text, element.start, element.end)


def _sections(document: Document) -> Iterator[list[Element]]:
    """Elements of one place: same headings, page and sheet. A heading with nothing below it is a
    section of its own; any other heading is dropped, because it stands in its followers' path."""
    elements = document.elements
    body: list[Element] = []
    for position, element in enumerate(elements):
        if body and (element.kind == "heading" or _place(element) != _place(body[-1])):
            yield body
            body = []
        if element.kind != "heading":
            body.append(element)
        elif not _has_followers(elements, position, document.text):
            yield [element]
    if body:
        yield body


def _has_followers(elements: Sequence[Element], position: int, text: str) -> bool:
    if position + 1 == len(elements):
        return False
    path = _path(text, elements[position])
    return elements[position + 1].heading[: len(path)] == path


def _place(element: Element) -> tuple[tuple[str, ...], int | None, str | None]:
    return element.heading, element.page, element.sheet


def _own_title(heading: Element, text: str) -> str:
    return heading_title(text[heading.start : heading.end])


def heading_title(line: str) -> str:
    """The words of a heading line: `## Leave ##` -> `Leave`."""
    return re.sub(r"^\s*#{1,6}\s+|\s+#+\s*$", "", line).split("\n")[0].strip()


def _path(text: str, element: Element) -> tuple[str, ...]:
    if element.kind == "heading":
        return (*element.heading, _own_title(element, text))
    return element.heading


def _headers(elements: Sequence[Element]) -> dict[int, Element | None]:
    """By where it starts, of each row the header of its table, and of a header itself. A table goes
    on below notes and over pages, but not over sheets."""
    headers: dict[int, Element | None] = {}
    header: Element | None = None
    for element in elements:
        if element.kind == "header":
            header = element
        elif element.kind == "row":
            if header is not None and header.sheet != element.sheet:
                header = None
        else:
            continue
        headers[element.start] = header
    return headers


def _rows(section: Sequence[Element], first: int, end: int) -> list[Element]:
    """Of a table, from element `first` on, those that start before `end`."""
    places = takewhile(lambda place: section[place].start < end, range(first, len(section)))
    return [section[place] for place in places if section[place].kind in ("row", "header")]


class _Columns:
    """Which part of a header stands above a piece of a row that had to be cut."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._ends: dict[tuple[int, str], list[int]] = {}
        self._marks: dict[int, str] = {}

    def above(self, header: Element, row: Element, start: int) -> str:
        """From the column on in which `start` is, or all of it where the cells cannot be told."""
        begin = header.start
        if start > row.start:
            mark = self._marks.get(header.start) or self._mark(header)
            names, cells = self._ends_of(header, mark), self._ends_of(row, mark)
            passed = bisect_right(cells, start)
            if passed and len(names) == len(cells):
                begin = names[passed - 1]
        return self._text[begin : min(header.end, begin + _MAX_HEADER_CHARACTERS + 1)].strip()

    def _mark(self, header: Element) -> str:
        text = self._text[header.start : header.end]
        self._marks[header.start] = max(_CELL_ENDS, key=text.count)
        return self._marks[header.start]

    def _ends_of(self, row: Element, mark: str) -> list[int]:
        key = (row.start, mark)
        if key not in self._ends:
            found = re.finditer(re.escape(mark), self._text[row.start : row.end])
            self._ends[key] = [row.start + match.end() for match in found]
        return self._ends[key]


def _context(document: Document, first: Element, header: str) -> str:
    path = list(_path(document.text, first))
    if not path or path[0] != document.title:
        path.insert(0, document.title)
    lines = [" > ".join(part for part in path if part)[:_MAX_CONTEXT_CHARACTERS]]
    if header:
        lines.append(_shortened(header))
    return "\n".join(lines)


def _shortened(header: str) -> str:
    """What would crowd the rows out is cut, between two cells if it can be."""
    if len(header) <= _MAX_HEADER_CHARACTERS:
        return header
    cut = header[:_MAX_HEADER_CHARACTERS]
    between = max(cut.rfind("|"), cut.rfind(","), cut.rfind("\t"), cut.rfind(";"))
    return cut[:between].rstrip() if between > _MAX_HEADER_CHARACTERS // 2 else cut


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
