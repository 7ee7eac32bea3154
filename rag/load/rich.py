"""HTML by `unstructured`, offline; and what its elements become.

Headings come from markup (h1..h6) or styles, never from `unstructured`'s guesses, which mean
nothing for Chinese. Before HTML is handed over it is put in order: see `webpage`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rag.load.build import Builder, Parsed
from rag.load.headers import with_whole_header
from rag.load.webpage import LINE_BREAK, STAND_IN, page_title, prepared, text_of_html

if TYPE_CHECKING:
    from unstructured.documents.elements import Element as Piece

_MAX_SPAN = 100  # columns
_lock = threading.Lock()
_tamed = False


def tame_unstructured() -> None:
    """Keeps `unstructured` off the network, and from weighing every sentence. Call before its first
    import.

    It reports every partition to its makers unless told not to. To tell narrative from other text
    it cuts each paragraph into sentences and words: with spaCy's `en_core_web_sm`, which it
    downloads, and in minutes for a paragraph of megabytes. We use neither class, so it gets none.
    """
    global _tamed  # noqa: PLW0603 - once a process
    with _lock:
        if _tamed:
            return
        os.environ["DO_NOT_TRACK"] = "1"
        os.environ["SCARF_NO_ANALYTICS"] = "1"
        os.environ["UNSTRUCTURED_DISABLE_NOTICE"] = "1"
        from unstructured.partition import text_type

        for tokenizer in ("sent_tokenize", "word_tokenize", "pos_tag"):
            setattr(text_type, tokenizer, _no_words)
        _tamed = True


def _no_words(_text: str) -> list[Any]:
    return []


def read_html(data: bytes, name: str) -> Parsed:
    builder = Builder()
    html = text_of_html(data, name)
    add_html(builder, html)
    return builder.parsed(_first_h1(builder) or page_title(html))


def add_html(builder: Builder, html: str) -> None:
    """Adds what a page shows. Headings nest below those the builder has open only by level."""
    tame_unstructured()
    from unstructured.partition.html import partition_html

    text = prepared(html)
    if text:
        add_pieces(builder, partition_html(text=text, languages=[""]))


def add_pieces(builder: Builder, pieces: Iterable[Piece]) -> None:
    """`unstructured`'s elements as ours. In HTML and DOCX only markup or a style makes a Title."""
    before = ""
    for piece in pieces:
        text = unmasked(piece.text)
        kind = piece.category
        if kind == "Title":
            builder.heading(text, (piece.metadata.category_depth or 0) + 1)
        elif kind == "Table":
            builder.table(table_rows(piece.metadata.text_as_html, text))
        elif kind == "CodeSnippet":
            builder.text(text, kind="code")
        elif kind != "PageBreak":
            builder.text(text, tight=kind == before == "ListItem")
        before = kind


def unmasked(text: str) -> str:
    return "\n".join(line.strip() for line in text.replace(STAND_IN, "").split(LINE_BREAK))


def table_rows(html: str | None, text: str) -> list[list[str]]:
    """The rows of `text_as_html`, or `text`; a cell that spans rows stands in each of them, one
    that spans columns in the first. A header of two lines is one, above an empty row."""
    if not html:
        return [[text]]
    from lxml import html as lxml_html  # type: ignore[import-untyped]

    rows: list[list[str]] = []
    wide: list[dict[int, int]] = []  # how many columns a cell takes, by row and column
    spans: dict[int, tuple[int, str]] = {}  # by column: rows still covered, and the text
    for tr in lxml_html.fragment_fromstring(html).iter("tr"):
        row: list[str] = []
        wide.append({})
        cells = [cell for cell in tr if cell.tag in ("td", "th")]
        while cells or len(row) in spans:
            if len(row) in spans:
                left, covered = spans.pop(column := len(row))
                row.append(covered)
                if left > 1:
                    spans[column] = (left - 1, covered)
                continue
            cell = cells.pop(0)
            value = unmasked(" ".join(t.strip() for t in cell.itertext())).replace("\n", " ")
            width = min(_number(cell.get("colspan")), _MAX_SPAN)
            if width > 1:
                wide[-1][len(row)] = width
            for text_here in (value, *[""] * (width - 1)):
                if (height := _number(cell.get("rowspan"))) > 1:
                    spans[len(row)] = (height - 1, text_here)
                row.append(text_here)
        rows.append(row)
    return _without_empty_columns(with_whole_header(rows, wide))


def _without_empty_columns(rows: list[list[str]]) -> list[list[str]]:
    """Web pages use empty columns as spacing."""
    used = {column for row in rows for column, cell in enumerate(row) if cell}
    return [[cell for column, cell in enumerate(row) if column in used] for row in rows]


def _number(value: str | None) -> int:
    return int(value) if value and value.isdecimal() and len(value) < 5 else 1


def _first_h1(builder: Builder) -> str:
    parsed = builder.parsed()
    for element in parsed.elements:
        if element.kind == "heading" and not element.heading:
            return parsed.text[element.start : element.end]
    return ""
