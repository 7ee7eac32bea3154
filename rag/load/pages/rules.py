"""The straight lines of a PDF page: strokes, the sides of boxes, and fills as thin as a line.

Programs draw the rules of a table in each of these ways: LaTeX and Word fill thin rectangles,
Typst and LibreOffice stroke lines, browsers do both.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pypdfium2 import PdfPage

_MAX_SEGMENTS = 20_000  # of a page: one of more is a drawing
_MAX_OBJECTS = 200_000
_MAX_DEPTH = 5  # of forms in forms
_THIN = 3.0  # points
_SLANT = 1.0  # points
_WHITE = 250  # of 255

Point = tuple[float, float]
Matrix = tuple[float, float, float, float, float, float]
_SAME: Matrix = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Rule:
    """A horizontal line at the height `at`, or a vertical one that far from the left; in points."""

    at: float
    start: float
    end: float


@dataclass(slots=True)
class Rules:
    horizontal: list[Rule] = field(default_factory=list)
    vertical: list[Rule] = field(default_factory=list)

    def add(self, one: Point, other: Point) -> None:
        """A line that is neither horizontal nor vertical, or has no length, is left out."""
        wide, high = abs(one[0] - other[0]), abs(one[1] - other[1])
        if high <= _SLANT < wide:
            ends = sorted((one[0], other[0]))
            self.horizontal.append(Rule((one[1] + other[1]) / 2, *ends))
        elif wide <= _SLANT < high:
            ends = sorted((one[1], other[1]))
            self.vertical.append(Rule((one[0] + other[0]) / 2, *ends))


class _DrawingError(Exception):
    """There is more on the page than any table needs."""


def drawn_rules(page: PdfPage) -> Rules:
    """In the coordinates of the page's text, before it is turned. None for a drawing."""
    from pypdfium2 import raw

    rules = Rules()
    left = _Left(_MAX_SEGMENTS, _MAX_OBJECTS)
    try:
        for path, matrix in _paths(page, raw.FPDFPage_CountObjects, raw.FPDFPage_GetObject, left):
            _add_path(rules, path, matrix, left)
    except _DrawingError:
        return Rules()
    return rules


@dataclass(slots=True)
class _Left:
    """How many more of each are looked at."""

    segments: int
    objects: int

    def take(self, *, segments: int = 0, objects: int = 0) -> None:
        self.segments -= segments
        self.objects -= objects
        if self.segments < 0 or self.objects < 0:
            raise _DrawingError


def _paths(
    holder: Any, count: Any, get: Any, left: _Left, matrix: Matrix = _SAME, depth: int = 0
) -> Iterator[tuple[Any, Matrix]]:
    """Each with what turns its coordinates into those of the page."""
    from pypdfium2 import raw

    number = count(holder)
    left.take(objects=number)
    for index in range(number):
        thing = get(holder, index)
        kind = raw.FPDFPageObj_GetType(thing)
        if kind == raw.FPDF_PAGEOBJ_PATH:
            yield thing, _product(_matrix_of(thing), matrix)
        elif kind == raw.FPDF_PAGEOBJ_FORM and depth < _MAX_DEPTH:
            inner = _product(_matrix_of(thing), matrix)
            yield from _paths(
                thing,
                raw.FPDFFormObj_CountObjects,
                raw.FPDFFormObj_GetObject,
                left,
                inner,
                depth + 1,
            )


def _matrix_of(thing: Any) -> Matrix:
    from pypdfium2 import raw

    matrix = raw.FS_MATRIX()
    if not raw.FPDFPageObj_GetMatrix(thing, matrix):
        return _SAME
    return matrix.a, matrix.b, matrix.c, matrix.d, matrix.e, matrix.f


def _product(first: Matrix, then: Matrix) -> Matrix:
    """ISO 32000-2, 8.3.4."""
    a, b, c, d, e, f = first
    p, q, r, s, t, u = then
    return (
        a * p + b * r, a * q + b * s,
        c * p + d * r, c * q + d * s,
        e * p + f * r + t, e * q + f * s + u,
    )  # fmt: skip


def _add_path(rules: Rules, path: Any, matrix: Matrix, left: _Left) -> None:
    from pypdfium2 import raw

    fill, stroke = ctypes.c_int(), ctypes.c_int()
    raw.FPDFPath_GetDrawMode(path, fill, stroke)
    if not fill.value and not stroke.value:
        return
    count = raw.FPDFPath_CountSegments(path)
    left.take(segments=max(count, 0))
    figures = list(_figures(path, count, matrix))
    if stroke.value:
        for sides in figures:
            for one, other in sides:
                rules.add(one, other)
        return
    white = _is_white(path)
    for sides in figures:
        _add_filled(rules, sides, white)


def _figures(path: Any, count: int, matrix: Matrix) -> Iterator[list[tuple[Point, Point]]]:
    """The straight sides of each closed or open figure in a path."""
    from pypdfium2 import raw

    a, b, c, d, e, f = matrix
    x, y = ctypes.c_float(), ctypes.c_float()
    sides: list[tuple[Point, Point]] = []
    start: Point = (0.0, 0.0)
    at = start
    for index in range(count):
        segment = raw.FPDFPath_GetPathSegment(path, index)
        kind = raw.FPDFPathSegment_GetType(segment)
        raw.FPDFPathSegment_GetPoint(segment, x, y)
        point = (a * x.value + c * y.value + e, b * x.value + d * y.value + f)
        if kind == raw.FPDF_SEGMENT_MOVETO:
            if sides:
                yield sides
            sides, start = [], point
        elif kind == raw.FPDF_SEGMENT_LINETO:
            sides.append((at, point))
        at = point
        if raw.FPDFPathSegment_GetClose(segment):
            sides.append((at, start))
            at = start
    if sides:
        yield sides


def _add_filled(rules: Rules, sides: list[tuple[Point, Point]], white: bool) -> None:
    """Of a rectangle: one line if it is thin, else its sides, unless it is white."""
    if not 3 <= len(sides) <= 6 or not all(map(_is_straight, sides)):
        return
    xs = [point[0] for side in sides for point in side]
    ys = [point[1] for side in sides for point in side]
    left, right, bottom, top = min(xs), max(xs), min(ys), max(ys)
    if max(right - left, top - bottom) <= _THIN:  # a dot of a dotted line, whichever way it goes
        rules.horizontal.append(Rule((top + bottom) / 2, left, right))
        rules.vertical.append(Rule((left + right) / 2, bottom, top))
    elif top - bottom <= _THIN < right - left:
        middle = (top + bottom) / 2
        rules.add((left, middle), (right, middle))
    elif right - left <= _THIN < top - bottom:
        middle = (left + right) / 2
        rules.add((middle, bottom), (middle, top))
    elif not white and min(right - left, top - bottom) > _THIN:
        corners = ((left, bottom), (left, top), (right, top), (right, bottom), (left, bottom))
        for one, other in pairwise(corners):
            rules.add(one, other)


def _is_straight(side: tuple[Point, Point]) -> bool:
    (left, bottom), (right, top) = side
    return abs(left - right) <= _SLANT or abs(bottom - top) <= _SLANT


def _is_white(path: Any) -> bool:
    """White, or invisible."""
    from pypdfium2 import raw

    red, green, blue, alpha = (ctypes.c_uint() for _ in range(4))
    if not raw.FPDFPageObj_GetFillColor(path, red, green, blue, alpha):
        return True
    return min(red.value, green.value, blue.value) >= _WHITE or not alpha.value
