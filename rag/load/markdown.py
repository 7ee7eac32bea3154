"""Markdown: CommonMark with tables, by markdown-it-py; only the block structure is needed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag.load.build import HeadingPath, Parsed, trimmed
from rag.types import Element, ElementKind

if TYPE_CHECKING:
    from markdown_it.token import Token

_FRONT_MATTER = re.compile(r"---[ \t]*\n(?:.*\n)*?(?:---|\.\.\.)[ \t]*(?:\n|\Z)")
_FRONT_TITLE = re.compile(r"^title:[ \t]*(.+?)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Block:
    """Lines first..last-1. `level` of a heading, else 0; `kind` None: belongs to no element."""

    kind: ElementKind | None
    first: int
    last: int
    level: int = 0


def read(text: str) -> Parsed:
    """Elements point into `text`, the Markdown source. Rules and the line under a table's header
    belong to no element."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").enable("table")
    parser.core.ruler.disable(["inline", "text_join"])
    front = _FRONT_MATTER.match(text)
    front_lines = text[: front.end()].count("\n") if front else 0
    lines = text.split("\n")
    source = "\n".join([""] * front_lines + lines[front_lines:])
    starts = _line_starts(lines)

    headings = HeadingPath()
    elements: list[Element] = []
    first_h1 = ""
    for block in _fill_gaps(list(_blocks(parser.parse(source))), front_lines, len(lines)):
        start, end = trimmed(text, starts[block.first], starts[block.last])
        if block.kind == "code":
            start = starts[block.first] + _leading_blank(text[starts[block.first] : end])
        if start >= end or block.kind is None:
            continue
        above = headings.above
        if block.level:
            title = heading_title(text[start:end])
            above = headings.enter(block.level, title)
            if block.level == 1 and not first_h1:
                first_h1 = title
        elements.append(Element(block.kind, start, end, above, row=_row(block.kind, elements)))
    return Parsed(text, tuple(elements), _plain(first_h1) or _front_title(front))


def _row(kind: ElementKind, before: Sequence[Element]) -> int | None:
    """The number of a table's row; its header is the first."""
    if kind == "header":
        return 1
    above = before[-1].row if before else None
    return above + 1 if kind == "row" and above is not None else None


def heading_title(source: str) -> str:
    """The words of a heading's source: `## Leave ##` -> `Leave`. Inline marks are kept."""
    return re.sub(r"^\s*#{1,6}\s+|\s+#+\s*$", "", source).split("\n")[0].strip()


def _line_starts(lines: Sequence[str]) -> list[int]:
    """Where each line starts, and last where the text ends."""
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    starts[-1] -= 1
    return starts


def _blocks(tokens: Sequence[Token]) -> Iterator[_Block]:
    """In order of their first line; code and tables inside lists and quotes come out as such."""
    for token in tokens:
        if token.map is None:
            continue
        first, last = token.map
        if token.type in ("fence", "code_block"):
            yield _Block("code", first, last)
        elif token.type == "tr_open":
            yield _Block("row", first, last)
        elif token.type == "thead_open":
            yield _Block("header", first, first + 1)
            yield _Block(None, first + 1, first + 2)
        elif token.type == "heading_open" and token.level == 0:
            yield _Block("heading", first, last, int(token.tag[1]))
        elif token.type == "hr" and token.level == 0:
            yield _Block(None, first, last)
        elif token.level == 0 and token.nesting >= 0 and token.type != "table_open":
            yield _Block("text", first, last)


def _fill_gaps(blocks: Sequence[_Block], front_lines: int, total: int) -> Iterator[_Block]:
    """Blocks that do not overlap and cover all lines: containers give way to what they hold, and
    lines no token claims (link definitions, front matter) are text."""
    owner: list[int] = [-1] * total
    owner[:front_lines] = [-2] * front_lines
    for number, block in enumerate(blocks):
        for line in range(block.first, min(block.last, total)):
            if owner[line] < 0 or blocks[owner[line]].kind == "text" or block.kind is None:
                owner[line] = number
    first = 0
    for line in range(1, total + 1):
        if line == total or owner[line] != owner[first]:
            number = owner[first]
            block = blocks[number] if number >= 0 else _Block("text", 0, 0)
            yield _Block(block.kind, first, line, block.level)
            first = line


def _leading_blank(source: str) -> int:
    """Blank lines in front, but not the indent of the first line of code."""
    blank = re.match(r"(?:[^\S\n]*\n)*", source)
    return blank.end() if blank else 0


def _plain(source: str) -> str:
    """A heading's words without inline marks."""
    from markdown_it import MarkdownIt

    children = MarkdownIt("commonmark").parseInline(source)[0].children or []
    return "".join(child.content for child in children).strip()


def _front_title(front: re.Match[str] | None) -> str:
    found = _FRONT_TITLE.search(front[0]) if front else None
    return found[1].strip("\"'") if found else ""
