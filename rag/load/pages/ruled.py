"""The tables of a PDF page: its characters, in the cells of the grids that its rules make."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rag.load.headers import with_whole_header
from rag.load.lines import joined
from rag.load.pages.grid import Cell, Grid, grids
from rag.load.pages.printed import Line, Table, same_columns
from rag.load.pages.rules import Point, Rules, drawn_rules

if TYPE_CHECKING:
    from pypdfium2 import PdfPage

_FILLED = 0.3  # of a table's cells; a chart with numbers in it has fewer
_HEADED = 0.6  # of its first row: then the others may be as empty as they like

Place = tuple[int, Cell]  # which grid, and where in it


class Piece(Protocol):
    """A stretch of the page's text, on one line of it."""

    @property
    def text(self) -> str: ...

    @property
    def line(self) -> Line:
        """As a whole; of no text if it is blank."""
        ...

    def middles(self) -> Iterator[tuple[int, Point]]:
        """Of the boxes of its visible characters, by their place in `text`."""
        ...

    def part(self, start: int, end: int) -> Line: ...


def with_tables(
    page: PdfPage, pieces: Sequence[Piece], before: Sequence[float] = ()
) -> list[Line | Table]:
    """The pieces that are in no table as lines, each table where its first character comes.

    `before` has the edges of the last table of the page before, of which a last row may be here.
    """
    turned = page.get_rotation()
    found = grids(_turned(drawn_rules(page), turned))
    if not found:
        return [piece.line for piece in pieces]
    placed = [_Placed(piece, _places(piece, found, turned)) for piece in pieces]
    lines = _lines_by_cell(placed, found)
    tables = {
        number: _table(grid, lines[number])
        for number, grid in enumerate(found)
        if _is_table(grid, lines[number]) or (lines[number] and same_columns(before, grid.edges))
    }
    return list(_in_order(placed, tables))


@dataclass(frozen=True, slots=True)
class _Placed:
    """A piece, and where each of its visible characters is: None outside of all grids."""

    piece: Piece
    places: dict[int, Place | None]


def _places(piece: Piece, found: Sequence[Grid], turned: int) -> dict[int, Place | None]:
    line = piece.line
    if line.size and not turned:
        low, high = sorted((line.bottom, line.first_bottom))
        if not any(grid.covers(low - line.size, high + 2 * line.size) for grid in found):
            return {}
    if not turned:
        return {offset: _place(middle, found) for offset, middle in piece.middles()}
    return {offset: _place(_turn(middle, turned), found) for offset, middle in piece.middles()}


def _place(point: Point, found: Sequence[Grid]) -> Place | None:
    for number, grid in enumerate(found):
        cell = grid.cell_at(*point)
        if cell is not None:
            return number, cell
    return None


def _runs(placed: _Placed, wanted: Container[int]) -> Iterator[tuple[Place | None, int, int]]:
    """Stretches within one cell, or outside of the grids that are wanted. What has no place goes
    with what is before it: white space, and pdfium's mark for a hyphen."""
    start = 0
    within: Place | None = None
    for number, (offset, place) in enumerate(placed.places.items()):
        here = place if place is not None and place[0] in wanted else None
        if number and here != within:
            yield within, start, offset
            start = offset
        within = here
    if placed.places:
        yield within, start, len(placed.piece.text)


def _lines_by_cell(
    placed: Sequence[_Placed], found: Sequence[Grid]
) -> list[dict[Cell, list[Line]]]:
    """Of each grid."""
    lines: list[dict[Cell, list[Line]]] = [{} for _ in found]
    for one in placed:
        for place, start, end in _runs(one, range(len(found))):
            line = one.piece.part(start, end)
            if place is not None and line.text:
                lines[place[0]].setdefault(place[1], []).append(line)
    return lines


def _is_table(grid: Grid, lines: dict[Cell, list[Line]]) -> bool:
    """Two rows and two columns with something in them; and not a chart."""
    cells = set(grid.cells.values())
    filled = lines.keys()
    if len({cell.row for cell in filled}) < 2 or len({cell.column for cell in filled}) < 2:
        return False
    if len({cell.row for cell in filled}) == len(filled):
        return False  # each stands alone in its row
    if len(filled) >= _FILLED * len(cells):
        return True
    first = [cell for cell in cells if cell.row == min(cell.row for cell in filled)]
    return len(first) > 1 and sum(cell in filled for cell in first) >= _HEADED * len(first)


def _table(grid: Grid, lines: dict[Cell, list[Line]]) -> Table:
    """What spans rows stands in each of them, what spans columns in the first of them."""
    columns, rows = len(grid.xs) - 1, len(grid.ys) - 1
    texts = [[""] * columns for _ in range(rows)]
    wide: list[dict[int, int]] = [{} for _ in range(rows)]
    for cell in set(grid.cells.values()):
        text = joined([line.text for line in lines[cell]]) if cell in lines else ""
        for row in range(cell.row, cell.row + cell.height):
            texts[row][cell.column] = text
            if cell.width > 1:
                wide[row][cell.column] = cell.width
    return Table(
        tuple(map(tuple, with_whole_header(texts, wide))),
        grid.edges,
        tuple(line for cell in lines.values() for line in cell),
    )


def _in_order(placed: Sequence[_Placed], tables: dict[int, Table]) -> Iterator[Line | Table]:
    told: set[int] = set()
    for one in placed:
        runs = list(_runs(one, tables))
        if all(place is None for place, _, _ in runs):
            yield one.piece.line
            continue
        for place, start, end in runs:
            if place is None:
                yield one.piece.part(start, end)
            elif place[0] not in told:
                told.add(place[0])
                yield tables[place[0]]


def _turned(rules: Rules, degrees: int) -> Rules:
    """As the page is looked at."""
    if not degrees:
        return rules
    turned = Rules()
    for rule in rules.horizontal:
        turned.add(_turn((rule.start, rule.at), degrees), _turn((rule.end, rule.at), degrees))
    for rule in rules.vertical:
        turned.add(_turn((rule.at, rule.start), degrees), _turn((rule.at, rule.end), degrees))
    return turned


def _turn(point: Point, degrees: int) -> Point:
    """Clockwise, round the corner of the page."""
    x, y = point
    return {90: (y, -x), 180: (-x, -y), 270: (-y, x)}.get(degrees, point)
