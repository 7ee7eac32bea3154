"""XLSX by openpyxl.

`unstructured` reads sheets through pandas, which rounds decimals to six places (0.000000001 becomes
0.0) and prints dates with a midnight; here a cell says what Excel shows.
"""

from __future__ import annotations

import datetime as dt
import io
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rag.load.build import Builder, Parsed, row_line
from rag.types import ElementKind

if TYPE_CHECKING:
    from openpyxl.cell.cell import Cell  # type: ignore[import-untyped]
    from openpyxl.worksheet.worksheet import Worksheet  # type: ignore[import-untyped]

# Beyond either, a file is streamed, and merged cells stay as they are stored. One cell in the last
# row and column would span a grid of 17,000,000,000.
_STREAM_FROM_BYTES = 20 * 2**20
_MAX_GRID = 2_000_000
_CURRENCY = re.compile("[¥￥$€£元](?!-)")
_MAX_FILLED_CELLS = 100_000


def read(data: bytes) -> Parsed:
    """One line a row, all sheets; a sheet's name is its heading. A value merged over several
    rows stands in each of them."""
    import openpyxl  # type: ignore[import-untyped]

    streamed = len(data) > _STREAM_FROM_BYTES
    book = openpyxl.load_workbook(io.BytesIO(data), data_only=True, read_only=streamed)
    if any(
        sheet.max_row * sheet.max_column > _MAX_GRID for sheet in book.worksheets if not streamed
    ):
        streamed = True
        book = openpyxl.load_workbook(io.BytesIO(data), data_only=True, read_only=True)
    builder = Builder()
    try:
        for sheet in book.worksheets:
            if streamed:
                sheet.reset_dimensions()
            rows = list(_rows(sheet, streamed))
            if any(map(any, rows)):
                builder.sheet = sheet.title
                builder.headings.clear()
                builder.heading(sheet.title, 1)
                _add_rows(builder, rows)
        return builder.parsed(_title(book.properties.title))
    finally:
        book.close()


def _rows(sheet: Worksheet, streamed: bool) -> Iterator[list[str]]:
    merged = {} if streamed else _merged_values(sheet)
    for row in sheet.iter_rows():
        yield [merged.get(_place(cell)) or shown(cell) for cell in row]


def _place(cell: Any) -> tuple[int, int]:
    # Empty cells of a streamed sheet have no place; nothing is merged there.
    return getattr(cell, "row", 0), getattr(cell, "column", 0)


def _merged_values(sheet: Worksheet) -> dict[tuple[int, int], str]:
    """What the first column of each area merged over several rows says in each of those rows."""
    values: dict[tuple[int, int], str] = {}
    for area in sheet.merged_cells.ranges:
        text = shown(sheet.cell(area.min_row, area.min_col))
        if text and len(values) + area.max_row - area.min_row < _MAX_FILLED_CELLS:
            for row in range(area.min_row + 1, area.max_row + 1):
                values[row, area.min_col] = text
    return values


def _add_rows(builder: Builder, rows: Sequence[Sequence[str]]) -> None:
    """Where the sheet has a table of several columns, a row with one cell is text if it stands
    above the header or below an empty row: a title or a note. Any other row is a row. Columns that
    are empty in all rows are left out."""
    filled = [sum(map(bool, row)) for row in rows]
    used = sorted({i for row in rows for i, cell in enumerate(row) if cell})
    wide = max(filled) > 1
    kind: ElementKind = "header"
    apart = True
    for row, cells in zip(rows, filled, strict=True):
        if cells == 0:
            apart = True
        elif wide and cells == 1 and (apart or kind == "header"):
            builder.text(row_line([cell for cell in row if cell]))
        else:
            builder.row(row_line([row[i] for i in used if i < len(row)]), kind)
            kind, apart = "row", False


def shown(cell: Cell) -> str:
    """A cell as a person sees it: dates, times, percentages, thousands and decimals."""
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, dt.datetime):
        return _shown_time(value)
    if isinstance(value, dt.time):
        return value.isoformat(timespec="seconds" if value.second else "minutes")
    if isinstance(value, int | float):
        return _shown_number(value, cell.number_format or "General")
    return str(value).strip()


def _shown_time(value: dt.datetime) -> str:
    if value.time() == dt.time():
        return value.date().isoformat()
    return value.isoformat(sep=" ", timespec="seconds" if value.second else "minutes")


def _shown_number(value: float, number_format: str) -> str:
    section = re.sub(r'"[^"]*"|\\.|\[[^\]]*\]|_.', "", number_format.split(";")[0])
    digits = re.search(r"[#0?](?:[#0?,]*)(?:\.(0*)([#?]*))?", section)
    if "E" in section or digits is None or section.strip().lower() == "general":
        return _plain_number(value)
    if "%" in section:
        value *= 100
    decimals = len(digits[1] or "")
    grouping = "," if "," in digits[0] else ""
    text = f"{value:{grouping}.{decimals}f}"
    currency = _CURRENCY.search(number_format)
    if currency:
        sign, text = ("-", text[1:]) if text.startswith("-") else ("", text)
        return f"{sign}{text}元" if currency[0] == "元" else f"{sign}{currency[0]}{text}"
    return f"{text}%" if "%" in section else text


def _plain_number(value: float) -> str:
    """Up to 15 digits, as Excel keeps them; whole numbers without a point."""
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return str(int(value))
    return f"{value:.15g}"


def _title(title: str | None) -> str:
    return (title or "").strip()
