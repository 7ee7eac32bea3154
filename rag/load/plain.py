"""Plain text: paragraphs between blank lines, and the headings that are safe to call so."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rag.load.build import HeadingPath, Parsed, trimmed
from rag.types import Element

_NUMERAL = r"[一二三四五六七八九十百千零〇两0-9０-９]{1,7}"
_CHAPTER = re.compile(rf"第{_NUMERAL}([编部卷篇章回节])(?=([\s　:：]|$)?)")
_LISTED = re.compile(r"[一二三四五六七八九十]{1,3}、\S[^，,]*")
_DECIMAL = re.compile(r"(\d{1,2}(?:\.\d{1,2}){1,4})\.?[ \t　]+(?=.*[^\W\d_])")
_ENGLISH = re.compile(r"(Part|Chapter|Section|Appendix) (\d{1,3}|[IVXLC]{1,6}|[A-Z])\b")
_CAPITALS = re.compile(r"\d{1,2}(\.\d{1,2})*\.? [^a-z]*[A-Z]{3}[^a-z]*")
_SENTENCE = re.compile(r"[。！？；…]|[，、,.;!?:：]$|[.!?] ")
_MAX_HEADING = 40
_LEVELS = {"编": 1, "部": 1, "卷": 1, "篇": 1, "章": 2, "回": 2, "节": 3}
_LISTED_LEVEL = 4
_DECIMAL_LEVEL = 4


def read(text: str) -> Parsed:
    """Every character that is not white space is in exactly one element."""
    headings = HeadingPath()
    elements = []
    for start, end in _paragraphs(text):
        level = _heading_level(text[start:end], _line_below(text, end))
        if level:
            above = headings.enter(level, text[start:end])
            elements.append(Element("heading", start, end, above))
        else:
            elements.extend(_with_chapter_lines(text, start, end, headings))
    return Parsed(text, tuple(elements))


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for gap in re.finditer(r"\n[^\S\n]*(?=\n)", text):
        if text[start : gap.start()].strip():
            yield trimmed(text, start, gap.start())
        start = gap.end()
    if text[start:].strip():
        yield trimmed(text, start, len(text))


def _with_chapter_lines(
    text: str, start: int, end: int, headings: HeadingPath
) -> Iterator[Element]:
    """A paragraph, cut before and after lines like 第一章 总则; nothing weaker is trusted here,
    where no blank line sets the heading apart."""
    body = start
    for line in re.finditer(r"[^\n]+", text[start:end]):
        first, last = trimmed(text, start + line.start(), start + line.end())
        chapter = chapter_level(text[first:last], alone=False)
        if not chapter:
            continue
        yield from _text(text, body, first, headings)
        above = headings.enter(chapter, text[first:last])
        yield Element("heading", first, last, above)
        body = last
    yield from _text(text, body, end, headings)


def _text(text: str, start: int, end: int, headings: HeadingPath) -> Iterator[Element]:
    start, end = trimmed(text, start, end)
    if start < end:
        yield Element("text", start, end, headings.above)


def _line_below(text: str, end: int) -> str:
    below = re.compile(r"\s*([^\n]*)").match(text, end)
    return below[1].strip() if below else ""


def _heading_level(line: str, below: str) -> int:
    """0 unless `line`, which stands between blank lines, can only be a heading."""
    if not _short(line):
        return 0
    if level := chapter_level(line):
        return level
    if _ENGLISH.match(line) or _CAPITALS.fullmatch(line):
        return 2
    if not below:
        return 0
    if _LISTED.fullmatch(line) and not _LISTED.match(below):
        return _LISTED_LEVEL
    decimal = _DECIMAL.match(line)
    if decimal and not _SENTENCE.search(line[decimal.end() :]):
        return _DECIMAL_LEVEL + decimal[1].count(".")
    return 0


def chapter_level(line: str, *, alone: bool = True) -> int:
    """The level of a line like 第一章 总则, else 0; `alone` if it is a paragraph of its own."""
    found = _CHAPTER.match(line)
    if not found or not _short(line) or not (alone or found[2] or found.end() == len(line)):
        return 0
    return _LEVELS[found[1]]


def _short(line: str) -> bool:
    return "\n" not in line and len(line) <= _MAX_HEADING and not _SENTENCE.search(_words(line))


def _words(line: str) -> str:
    return re.sub(r"^[\d.]+\s", "", line)
