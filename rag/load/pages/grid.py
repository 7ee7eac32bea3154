"""The grids that rules make: which cells there are, and which span several rows or columns.

The way is that of pdfplumber's "lines" strategy: lines of one height are one, those that cross
belong together. pdfplumber itself stands on pdfminer and takes ten times as long: 79 and 146 ms of
a processor for the two PDFs in `knowledge/` (2026-11, pdfplumber 0.11), this 7 and 12.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import neg

from rag.load.pages.rules import Rule, Rules

_SNAP = 3.0  # points: lines closer than this are one, as those of a double border are
_REACH = 3.0  # points by which lines may miss each other
_SHORT = 6.0  # points
_MAX_RULES = 20_000  # of a page, before those of one line are joined
_MAX_PAIRS = 300_000  # of lines that may cross: beyond, it is a drawing
_MAX_PLACES = 50_000  # of a grid
_OPEN_SHARE = 0.6  # of the horizontal lines that end where there is no vertical one


@dataclass(frozen=True, slots=True)
class Cell:
    """Its first row and column, from 0, and how many of each it takes."""

    row: int
    column: int
    height: int = 1
    width: int = 1


@dataclass(frozen=True, slots=True)
class Grid:
    """`xs` from the left, `ys` from the top. `cells` has the cell at each row and column; where it
    has none, there is no cell."""

    xs: tuple[float, ...]
    ys: tuple[float, ...]
    cells: dict[tuple[int, int], Cell]

    @property
    def edges(self) -> tuple[float, ...]:
        """Of its columns, from its own left."""
        return tuple(x - self.xs[0] for x in self.xs)

    def covers(self, bottom: float, top: float) -> bool:
        """Whether anything between these heights may be in it."""
        return top >= self.ys[-1] and bottom <= self.ys[0]

    def cell_at(self, x: float, y: float) -> Cell | None:
        if not (self.xs[0] <= x <= self.xs[-1] and self.ys[-1] <= y <= self.ys[0]):
            return None
        column = bisect_right(self.xs, x) - 1
        row = bisect_right(self.ys, -y, key=neg) - 1
        return self.cells.get((row, column))


def grids(rules: Rules) -> list[Grid]:
    """Of at least two columns, the smaller ones first: they may stand in a cell of a larger one."""
    if len(rules.horizontal) < 2 or len(rules.vertical) < 2:
        return []
    if len(rules.horizontal) + len(rules.vertical) > _MAX_RULES:
        return []
    across, up = _joined(rules.horizontal), _joined(rules.vertical)
    if len(across) * len(up) > _MAX_PAIRS:
        return []
    found = [_grid(*crossing) for crossing in _crossing(across, up)]
    return sorted(
        (grid for grid in found if grid is not None),
        key=lambda grid: (grid.xs[-1] - grid.xs[0]) * (grid.ys[0] - grid.ys[-1]),
    )


def _joined(rules: Sequence[Rule]) -> list[Rule]:
    """Those of about one place as one line, where they touch; short ones are left out."""
    lines: list[Rule] = []
    for level in _levels(rules):
        at = sum(rule.at for rule in level) / len(level)
        first, *others = sorted(level, key=lambda rule: rule.start)
        start, end = first.start, first.end
        for rule in others:
            if rule.start > end + _REACH:
                lines.append(Rule(at, start, end))
                start, end = rule.start, rule.end
            end = max(end, rule.end)
        lines.append(Rule(at, start, end))
    return [line for line in lines if line.end - line.start >= _SHORT]


def _levels(rules: Sequence[Rule]) -> Iterable[list[Rule]]:
    level: list[Rule] = []
    for rule in sorted(rules, key=lambda rule: rule.at):
        if level and (rule.at - level[-1].at > _SNAP or rule.at - level[0].at > 2 * _SNAP):
            yield level
            level = []
        level.append(rule)
    if level:
        yield level


def _crossing(across: Sequence[Rule], up: Sequence[Rule]) -> list[tuple[list[Rule], list[Rule]]]:
    """Sets of lines that cross or touch each other, directly or by way of others."""
    parents = list(range(len(across) + len(up)))
    heights = [rule.at for rule in across]
    for number, post in enumerate(up, len(across)):
        first = bisect_left(heights, post.start - _REACH)
        for index in range(first, bisect_right(heights, post.end + _REACH)):
            if across[index].start - _REACH <= post.at <= across[index].end + _REACH:
                parents[_root(parents, index)] = _root(parents, number)
    sets: dict[int, tuple[list[Rule], list[Rule]]] = {}
    for index, rule in enumerate((*across, *up)):
        sets.setdefault(_root(parents, index), ([], []))[index >= len(across)].append(rule)
    return list(sets.values())


def _root(parents: list[int], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index


def _grid(across: Sequence[Rule], up: Sequence[Rule]) -> Grid | None:
    if len(across) < 2 or not up:
        return None
    up = [*up, *_open_sides(across, up)]
    xs = sorted({rule.at for rule in up})
    ys = sorted({rule.at for rule in across}, reverse=True)
    if len(xs) < 3 or len(xs) * len(ys) > _MAX_PLACES:
        return None
    cells: dict[tuple[int, int], Cell] = {}
    for region in _regions(xs, ys, across, up):
        for cell in _rectangles(region):
            for row in range(cell.row, cell.row + cell.height):
                for column in range(cell.column, cell.column + cell.width):
                    cells[row, column] = cell
    return Grid(tuple(xs), tuple(ys), cells)


def _open_sides(across: Sequence[Rule], up: Sequence[Rule]) -> list[Rule]:
    """Lines that are not drawn: many tables have none at their left and right."""
    bottom, top = across[0].at, across[-1].at
    sides = []
    for ends, sign in (([rule.start for rule in across], 1), ([rule.end for rule in across], -1)):
        outmost = min(sign * end for end in ends) * sign
        same = sum(abs(end - outmost) <= _REACH for end in ends)
        drawn = min(sign * rule.at for rule in up) * sign
        if same >= max(2, _OPEN_SHARE * len(across)) and sign * (drawn - outmost) > _SHORT:
            sides.append(Rule(outmost, bottom, top))
    return sides


def _regions(
    xs: Sequence[float], ys: Sequence[float], across: Sequence[Rule], up: Sequence[Rule]
) -> list[list[tuple[int, int]]]:
    """Places, by row and column, with no line between them; not those open to the outside."""
    posts, beams = _by_place(up), _by_place(across)
    columns, rows = len(xs) - 1, len(ys) - 1
    middles_x = [(a + b) / 2 for a, b in pairwise(xs)]
    middles_y = [(a + b) / 2 for a, b in pairwise(ys)]
    outside = rows * columns
    parents = list(range(outside + 1))
    for row in range(rows + 1):
        for column in range(columns + 1):
            here = row * columns + column if row < rows and column < columns else outside
            if row < rows and not _drawn(posts[xs[column]], middles_y[row]):
                beside = row * columns + column - 1 if column else outside
                parents[_root(parents, beside)] = _root(parents, here)
            if column < columns and not _drawn(beams[ys[row]], middles_x[column]):
                above = (row - 1) * columns + column if row else outside
                parents[_root(parents, above)] = _root(parents, here)
    regions: dict[int, list[tuple[int, int]]] = {}
    for place in range(outside):
        root = _root(parents, place)
        if root != _root(parents, outside):
            regions.setdefault(root, []).append(divmod(place, columns))
    return list(regions.values())


def _by_place(rules: Iterable[Rule]) -> dict[float, list[Rule]]:
    places: dict[float, list[Rule]] = {}
    for rule in rules:
        places.setdefault(rule.at, []).append(rule)
    return places


def _drawn(rules: Iterable[Rule], middle: float) -> bool:
    return any(rule.start <= middle <= rule.end for rule in rules)


def _rectangles(region: Sequence[tuple[int, int]]) -> list[Cell]:
    """The region itself, or its rows if it is none."""
    rows = sorted({row for row, _ in region})
    columns = sorted({column for _, column in region})
    if len(region) == len(rows) * len(columns):
        return [Cell(rows[0], columns[0], len(rows), len(columns))]
    cells: list[Cell] = []
    for row, column in sorted(region):
        last = cells[-1] if cells else None
        if last is not None and last.row == row and last.column + last.width == column:
            cells[-1] = Cell(row, last.column, 1, last.width + 1)
        else:
            cells.append(Cell(row, column))
    return cells
