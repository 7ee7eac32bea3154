"""CSV and TSV: records by the csv module, each tied to its raw characters."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator

from rag.load.build import Parsed
from rag.types import Element

_DELIMITERS = (",", ";", "\t", "|")
_SAMPLE_RECORDS = 50
_SAMPLE_CHARACTERS = 65_536


def read(text: str, kind: str) -> Parsed:
    """One element a record, the first one the header. Blank lines and records belong to no element,
    but are counted: a row's number is the one a spreadsheet program shows."""
    delimiter = sniff_delimiter(text, "\t" if kind == "tsv" else ",")
    elements: list[Element] = []
    for number, span in enumerate(_spans_or_lines(text, delimiter), 1):
        start, end = _without_newline(text, *span)
        if text[start:end].strip(delimiter + " \n\t"):
            elements.append(Element("row" if elements else "header", start, end, row=number))
    return Parsed(text, tuple(elements))


def sniff_delimiter(text: str, preferred: str) -> str:
    """The delimiter that cuts the first records into most equal numbers of cells."""

    def rank(delimiter: str) -> tuple[float, bool]:
        sample = text[:_SAMPLE_CHARACTERS].split("\n")[:_SAMPLE_RECORDS]
        try:
            widths = [len(row) for row in csv.reader(sample, delimiter=delimiter) if row]
        except csv.Error:
            return 0.0, False
        wide = [width for width in widths if width > 1]
        if not wide:
            return 0.0, delimiter == preferred
        usual = max(set(wide), key=wide.count)
        return wide.count(usual) / len(widths), delimiter == preferred

    return max(_DELIMITERS, key=rank)


def _spans_or_lines(text: str, delimiter: str) -> list[tuple[int, int]]:
    """A file with a quote that is never closed, or a cell beyond the csv module's limit, is cut
    at its lines: one bad quote must not swallow every record after it."""
    try:
        return list(_record_spans(text, delimiter, strict=True))
    except csv.Error as error:
        if "end of data" not in str(error) and "limit" not in str(error):
            try:
                return list(_record_spans(text, delimiter, strict=False))
            except csv.Error:
                pass
    return [match.span() for match in re.finditer(r"[^\n]*\n|[^\n]+", text)]


def _record_spans(text: str, delimiter: str, *, strict: bool) -> Iterator[tuple[int, int]]:
    taken = 0

    def lines() -> Iterator[str]:
        nonlocal taken
        for line in re.finditer(r"[^\n]*\n|[^\n]+", text):
            taken = line.end()
            yield line[0]

    start = 0
    for _ in csv.reader(lines(), delimiter=delimiter, strict=strict):
        yield start, taken
        start = taken


def _without_newline(text: str, start: int, end: int) -> tuple[int, int]:
    """Tabs and spaces stay: at the ends of a record they are cells."""
    while end > start and text[end - 1] == "\n":
        end -= 1
    while start < end and text[start] == "\n":
        start += 1
    return start, end
