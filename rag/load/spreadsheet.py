"""XLSX by openpyxl.

`unstructured` reads sheets through pandas, which rounds decimals to six places (0.000000001 becomes
0.0) and prints dates with a midnight; here a cell says what Excel shows (see `cells`).

What is hidden: a sheet that a person hid is left out, and said to be; hidden rows and columns are
read, because a filter or a folded group hides rows that are meant to be there.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rag.load.build import Builder, Parsed, row_line
from rag.load.cells import is_number, shown
from rag.load.headers import joined_headers
from rag.types import ElementKind

if TYPE_CHECKING:
    from openpyxl.worksheet.worksheet import Worksheet  # type: ignore[import-untyped]

# Beyond either, a file is streamed, and merged cells stay as they are stored. One cell in the last
# row and column would span a grid of 17,000,000,000.
_STREAM_FROM_BYTES = 20 * 2**20
_MAX_GRID = 2_000_000
_MAX_FILLED_CELLS = 100_000
# A formula whose result was never stored: the file was written by a program that cannot calculate.
_NO_RESULT = re.compile(
    rb"""<c\b(?![^<>]*\bt="str")[^<>]*><f\b(?:[^<>]*/>|[^<>]*>[^<]*</f>)(?:<v\s*/>|<v></v>)?</c>"""
)
_MAX_SHEET_BYTES = 200_000_000


def read(data: bytes) -> Parsed:
    """One line a row, all sheets that are shown; a sheet's name is its heading. A value merged over
    several rows stands in each of them; a header of two lines is one."""
    import openpyxl  # type: ignore[import-untyped]

    streamed = len(data) > _STREAM_FROM_BYTES
    book = openpyxl.load_workbook(io.BytesIO(data), data_only=True, read_only=streamed)
    if any(
        sheet.max_row * sheet.max_column > _MAX_GRID for sheet in book.worksheets if not streamed
    ):
        streamed = True
        book = openpyxl.load_workbook(io.BytesIO(data), data_only=True, read_only=True)
    builder = Builder()
    notes = []
    try:
        for sheet in book.worksheets:
            if sheet.sheet_state != "visible":
                notes.append(f"sheet {sheet.title} is hidden and was left out")
                continue
            if streamed:
                sheet.reset_dimensions()
            rows = list(_rows(sheet, streamed))
            if any(row.filled for row in rows):
                builder.sheet = sheet.title
                builder.headings.clear()
                builder.heading(sheet.title, 1)
                _add_rows(builder, rows, {} if streamed else _wide_cells(sheet))
        if not streamed and (count := _without_result(data)):
            notes.append(
                f"{count} formulas have no stored result and were left out."
                " Open the file in Excel or LibreOffice and save it"
            )
        return builder.parsed((book.properties.title or "").strip(), tuple(notes))
    finally:
        book.close()


@dataclass(frozen=True, slots=True)
class _Row:
    """`number` is the one Excel shows; `numeric` if a cell is a number or a date."""

    number: int
    cells: list[str]
    numeric: bool

    @property
    def filled(self) -> int:
        return sum(map(bool, self.cells))


def _rows(sheet: Worksheet, streamed: bool) -> Iterator[_Row]:
    merged = {} if streamed else _merged_values(sheet)
    for number, row in enumerate(sheet.iter_rows(), 1):
        yield _Row(
            number,
            [merged.get(_place(cell)) or shown(cell) for cell in row],
            any(is_number(cell.value) for cell in row),
        )


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


def _wide_cells(sheet: Worksheet) -> dict[tuple[int, int], int]:
    """How many columns each cell takes that takes several, by row and column from 0."""
    return {
        (area.min_row, area.min_col - 1): area.max_col - area.min_col + 1
        for area in sheet.merged_cells.ranges
        if area.max_col > area.min_col
    }


def _add_rows(
    builder: Builder, rows: Sequence[_Row], wide_cells: dict[tuple[int, int], int]
) -> None:
    """Where the sheet has a table of several columns, a row with one cell is text if it stands
    above the header or below an empty row: a title or a note. Any other row is a row, unless a
    second table plainly begins with it. Columns that are empty in all rows are left out."""
    used = sorted({i for row in rows for i, cell in enumerate(row.cells) if cell})
    wide = max(row.filled for row in rows) > 1
    kind: ElementKind = "header"
    apart = True  # nothing, or an empty row, or a title, is above
    titled = False
    joined: _Row | None = None  # the second line of a header
    for row, below in zip(rows, [*rows[1:], _Row(0, [], False)], strict=True):
        if row is joined:
            continue
        if row.filled == 0:
            apart = True
            continue
        if wide and row.filled == 1 and (apart or kind == "header"):
            builder.text(row_line([cell for cell in row.cells if cell]))
            titled = True
            continue
        if kind == "row" and apart and _begins_table(row, below, titled):
            kind = "header"
        cells = row.cells
        if kind == "header" and (names := _joined(row, below, wide_cells)):
            cells, joined = names, below
        builder.row(row_line([cells[i] for i in used if i < len(cells)]), kind, row.number)
        kind, apart, titled = "row", False, False


def _begins_table(row: _Row, below: _Row, titled: bool) -> bool:
    """Names over numbers, and more of them, or a title above, to be sure."""
    names = [cell for cell in row.cells if cell]
    return (
        len(names) >= (2 if titled else 3)
        and len(set(names)) == len(names)
        and not row.numeric
        and below.numeric
    )


def _joined(upper: _Row, lower: _Row, wide_cells: dict[tuple[int, int], int]) -> list[str]:
    """Both lines as one, if a cell of the upper spans several of the lower; else empty."""
    if upper.numeric or lower.numeric:
        return []
    spans = {column: width for (row, column), width in wide_cells.items() if row == upper.number}
    return joined_headers(upper.cells, lower.cells, spans) if spans else []


def _without_result(data: bytes) -> int:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return sum(
            len(_NO_RESULT.findall(archive.read(entry)))
            for entry in archive.infolist()
            if entry.filename.startswith("xl/worksheets/") and entry.file_size < _MAX_SHEET_BYTES
        )
