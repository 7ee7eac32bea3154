"""Paragraphs and headings put together again from printed lines, and the tables between them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise

from rag.load.build import Builder
from rag.load.pages.continued import Tables
from rag.load.pages.printed import Line, Table
from rag.load.plain import chapter_level

_CJK = r"\u2e80-\u30ff\u3400-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef"
_CJK_END = re.compile(rf"[{_CJK}，。、；：！？”’）】》…—]$")
_CJK_START = re.compile(rf"[{_CJK}“‘（【《…—]")
_CLOSING = re.compile(r"[，。、；：！？”’）】》]")
_ITEM = re.compile(
    r"[•●○■□◆▪·‣➢✓]|[-–*]\s|[(（]?\d{1,3}[.)）、]\s*\D|[(（]?[一二三四五六七八九十]{1,3}[)）、]"
    r"|第[一二三四五六七八九十百\d]{1,5}[章节条篇]"
)
_SENTENCE_END = re.compile(r"[。！？；，、,;.!?:：]$")
_HEADING_SCALE = 1.15
_MAX_HEADING = 60
_MAX_HEADING_SHARE = 0.2  # of a document's characters; beyond, its sizes say nothing


def add_pages(
    builder: Builder, pages: Sequence[Sequence[Line | Table]], *, numbered: bool = True
) -> None:
    """Paragraphs, headings and tables of all pages, which are numbered from 1."""
    levels = _heading_levels(_all_lines(pages))
    tables = Tables(builder, pages)
    for number, page in enumerate(pages, 1):
        builder.page = number if numbered else None
        for block in _blocks(page):
            if isinstance(block, Table):
                tables.add(block, number)
                continue
            tables.passed(block)
            text = joined([line.text for line in block])
            level = levels.get(_rounded(block[0].size), 0)
            if not levels and len(block) == 1:
                level = chapter_level(text)
            if level and len(block) <= 2 and _is_heading(text):
                builder.heading(text, 10 * level + _depth(text))
            else:
                builder.text(text)


def _all_lines(pages: Iterable[Iterable[Line | Table]]) -> Iterator[Line]:
    for page in pages:
        for block in page:
            yield from (block,) if isinstance(block, Line) else block.lines


def _blocks(page: Sequence[Line | Table]) -> Iterator[list[Line] | Table]:
    """Paragraphs, and tables between them."""
    lines = [block for block in page if isinstance(block, Line)]
    pitch, margins = _usual_pitch(lines), _right_margins(lines)
    for _, run in groupby(page, key=lambda block: isinstance(block, Table)):
        between: list[Line] = []
        for block in run:
            if isinstance(block, Table):
                yield block
            else:
                between.append(block)
        yield from _paragraphs(between, pitch, margins)


def _paragraphs(
    lines: Sequence[Line], pitch: float, margins: dict[int, float]
) -> Iterator[list[Line]]:
    paragraph: list[Line] = []
    for line in lines:
        if paragraph and (not line.text or _breaks(paragraph[-1], line, pitch, margins)):
            yield paragraph
            paragraph = []
        if line.text:
            paragraph.append(line)
    if paragraph:
        yield paragraph


def _usual_pitch(lines: Sequence[Line]) -> float:
    """The distance from line to line that is most common on the page, in heights of a line."""
    steps = Counter(
        round((above.bottom - below.first_bottom) / below.size, 1)
        for above, below in pairwise(lines)
        if below.size and above.size and above.bottom > below.first_bottom
    )
    usual = [step for step, _ in steps.most_common(1)]
    return min(usual[0], 2.5) if usual else 1.5


def _right_margins(lines: Sequence[Line]) -> dict[int, float]:
    """How far lines reach that start at about the same place, by that place. A fifth may reach
    further: titles over two columns do."""
    reaches: dict[int, list[float]] = {}
    for line in lines:
        for column in (_column(line) - 1, _column(line), _column(line) + 1):
            reaches.setdefault(column, []).append(line.right)
    return {
        column: sorted(reach, reverse=True)[(len(reach) - 1) // 5]
        for column, reach in reaches.items()
    }


def _column(line: Line) -> int:
    return round(line.left / 36)


def _breaks(above: Line, line: Line, pitch: float, margins: dict[int, float]) -> bool:
    """Whether a new paragraph starts at `line`. Without boxes only list items are told."""
    if _CLOSING.match(line.text):
        return False
    if _ITEM.match(line.text):
        return True
    if not (above.size and line.size):
        return False
    larger, smaller = max(above.size, line.size), min(above.size, line.size)
    if larger > smaller * 1.15:
        return True
    step = above.bottom - line.first_bottom
    if abs(step) < 0.4 * line.size:
        return False  # the same printed line, in two pieces
    if step < 0 or step > (pitch + 0.35) * line.size:
        return True
    if line.left > above.left + 1.2 * line.size:
        return True
    return _had_room(above, line, margins)


def _had_room(above: Line, line: Line, margins: dict[int, float]) -> bool:
    """Whether the first word of `line` would have fitted above: then the break was meant."""
    word = re.match(r"\S+", line.text)
    if _CJK_START.match(line.text) or not word:
        needed = 2 * line.size
    else:
        needed = (len(word[0]) + 1) * 0.55 * line.size
    return margins[_column(above)] - above.right > needed + line.size


def joined(lines: Sequence[str]) -> str:
    """The lines of a paragraph as one: no space between Chinese, hyphens mended."""
    text = lines[0]
    for line in lines[1:]:
        if text.endswith("\u00ad") or (re.search(r"[a-z]-$", text) and re.match(r"[a-z]", line)):
            text = text[:-1] + line
        elif _CJK_END.search(text) or _CJK_START.match(line):
            text += line
        else:
            text = f"{text} {line}"
    return text.replace("\u00ad", "-")


def _heading_levels(lines: Iterable[Line]) -> dict[float, int]:
    """Which sizes of type are headings, by rounded size; empty unless they are few."""
    characters: Counter[float] = Counter()
    for line in lines:
        characters[_rounded(line.size)] += len(line.text)
    body = characters.most_common(1)[0][0]
    large = [size for size in characters if size > body * _HEADING_SCALE]
    total = sum(characters.values())
    if not body or sum(characters[size] for size in large) > _MAX_HEADING_SHARE * total:
        return {}
    return {size: level for level, size in enumerate(sorted(large, reverse=True), 1)}


def _depth(heading: str) -> int:
    """2 for `3.1.2 Mounting`: headings of one size may still be numbered by level."""
    number = re.match(r"\d{1,2}(?:\.\d{1,2}){1,4}(?=\s)", heading)
    return number[0].count(".") if number else 0


def _rounded(size: float) -> float:
    return round(2 * size) / 2


def _is_heading(text: str) -> bool:
    words = re.search(r"[^\W\d_]{2}", text)
    return bool(words) and len(text) <= _MAX_HEADING and not _SENTENCE_END.search(text)
