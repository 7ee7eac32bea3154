"""What every reader hands back, and the builder for formats whose text we compose ourselves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rag.types import Element, ElementKind

CELL_SEPARATOR = " | "
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
# Soft hyphen, zero-width space and no-break space: they split words for a search, not for a reader.
_INVISIBLE = {0x00AD: None, 0x200B: None, 0xFEFF: None}


@dataclass(frozen=True, slots=True)
class Parsed:
    """A file's text and its elements; `title` is empty if the format names none.

    `notes` and `lacking` are those of `rag.types.Content`.
    """

    text: str
    elements: tuple[Element, ...]
    title: str = ""
    notes: tuple[str, ...] = ()
    lacking: str = ""


@dataclass(slots=True)
class HeadingPath:
    """The headings that hold at a place. Levels need not be consecutive; 0 is the outermost."""

    _stack: list[tuple[int, str]] = field(default_factory=list)

    @property
    def above(self) -> tuple[str, ...]:
        return tuple(title for _, title in self._stack)

    def enter(self, level: int, title: str) -> tuple[str, ...]:
        """Opens a heading, closing those of its level and deeper; returns the path above it."""
        while self._stack and self._stack[-1][0] >= level:
            self._stack.pop()
        above = self.above
        self._stack.append((level, title))
        return above

    def clear(self) -> None:
        self._stack.clear()


@dataclass(slots=True)
class Builder:
    """Composes a text out of blocks: a blank line between them, a newline between rows.

    `page` and `sheet` are stamped on what is added from then on.
    """

    page: int | None = None
    sheet: str | None = None
    headings: HeadingPath = field(default_factory=HeadingPath)
    _parts: list[str] = field(default_factory=list)
    _elements: list[Element] = field(default_factory=list)
    _length: int = 0

    def heading(self, text: str, level: int) -> None:
        title = " ".join(text.split())
        if title:
            self._add("heading", title, self.headings.enter(level, title), "\n\n")

    def text(self, text: str, *, kind: ElementKind = "text", tight: bool = False) -> None:
        """`tight` keeps it on the line right below the block before, as list items are."""
        text = text.strip("\n") if kind == "code" else text.strip()
        if text.strip():
            self._add(kind, text, self.headings.above, "\n" if tight else "\n\n")

    def table(self, rows: Iterable[Sequence[str]]) -> None:
        """One line a row; the first row that is not empty is the header, but for a title: a row
        above it with nothing but its first cell. Empty rows count."""
        kind: ElementKind = "header"
        rows = list(rows)
        wide = any(sum(map(bool, row)) > 1 for row in rows)
        for number, row in enumerate(rows, 1):
            line = row_line(row)
            if wide and kind == "header" and row and row[0] and not any(row[1:]):
                self.text(line)
            elif line:
                self.row(line, kind, number)
                kind = "row"

    def row(self, line: str, kind: ElementKind, number: int | None = None) -> None:
        separator = "\n\n" if kind == "header" else "\n"
        self._add(kind, line, self.headings.above, separator, number)

    def parsed(self, title: str = "", notes: tuple[str, ...] = (), lacking: str = "") -> Parsed:
        return Parsed("".join(self._parts), tuple(self._elements), title, notes, lacking)

    def _add(
        self,
        kind: ElementKind,
        text: str,
        above: tuple[str, ...],
        separator: str,
        row: int | None = None,
    ) -> None:
        text = clean(text.translate(_INVISIBLE))
        if not text.strip():
            return
        if self._parts:
            self._parts.append(separator)
            self._length += len(separator)
        start, self._length = self._length, self._length + len(text)
        self._parts.append(text)
        self._elements.append(Element(kind, start, self._length, above, self.page, self.sheet, row))


def row_line(cells: Sequence[str]) -> str:
    """`a | b | c`: empty cells at the end are left out, line breaks inside cells become spaces."""
    texts = [" ".join(cell.split()) for cell in cells]
    while texts and not texts[-1]:
        texts.pop()
    return CELL_SEPARATOR.join(texts)


def clean(text: str) -> str:
    """NUL and lone surrogates, which neither databases nor UTF-8 take, replaced one for one."""
    return _UNSTORABLE.sub("\ufffd", text)


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The same stretch without the white space at its ends."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
