"""Tables of a PDF that are drawn with rules: drawn here, read back cell by cell."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.load.pages.grid import Grid, grids
from rag.load.pages.rules import Rule, Rules
from rag.types import Content
from tests.test_load_pdf import CHINESE, LATIN, pdf, read

Line = tuple[float, float, float, str]
Drawn = tuple[list[Line], str]
Rows = Sequence[Sequence[str]]

LEFT, TOP, WIDTH, HEIGHT = 72.0, 700.0, 110.0, 24.0
PRICES = [["Item", "Price", "Stock"], ["Gateway", "1200", "14"], ["Sensor", "310", "250"]]


def stroked(x: float, y: float, to_x: float, to_y: float) -> str:
    return f"{x} {y} m {to_x} {to_y} l S"


def filled(x: float, y: float, to_x: float, to_y: float) -> str:
    """As Word and LaTeX draw a line."""
    return f"{x - 0.25} {y - 0.25} {to_x - x + 0.5} {to_y - y + 0.5} re f"


def lines_of(xs: Sequence[float], ys: Sequence[float], draw: Callable[..., str] = stroked) -> str:
    across = [draw(xs[0], y, xs[-1], y) for y in ys]
    return "\n".join([*across, *(draw(x, ys[-1], x, ys[0]) for x in xs)])


def boxes_of(xs: Sequence[float], ys: Sequence[float], paint: str = "S") -> str:
    return "0.9 g\n" * (paint == "f") + "\n".join(
        f"{left} {bottom} {right - left} {top - bottom} re {paint}"
        for top, bottom in pairwise(ys)
        for left, right in pairwise(xs)
    ) + "\n0 g" * (paint == "f")  # fmt: skip


def places(rows: Rows, top: float = TOP) -> tuple[list[float], list[float]]:
    return (
        [LEFT + WIDTH * i for i in range(len(rows[0]) + 1)],
        [top - HEIGHT * i for i in range(len(rows) + 1)],
    )


def words(rows: Rows, top: float = TOP) -> list[Line]:
    return [
        (LEFT + WIDTH * c + 4, top - HEIGHT * r - 16, 10, text)
        for r, row in enumerate(rows)
        for c, text in enumerate(row)
        if text
    ]


def table(rows: Rows, top: float = TOP, how: str = "lines") -> Drawn:
    xs, ys = places(rows, top)
    drawn = {
        "lines": lambda: lines_of(xs, ys),
        "fills": lambda: lines_of(xs, ys, filled),
        "boxes": lambda: boxes_of(xs, ys),
        "shades": lambda: boxes_of(xs, ys, "f"),
        "one path": lambda: lines_of(xs, ys).replace(" S", "") + " S",
        "scaled": lambda: (
            "q 0.1 0 0 0.1 0 0 cm\n" + lines_of([10 * x for x in xs], [10 * y for y in ys]) + "\nQ"
        ),
        "dots": lambda: "\n".join(
            [f"{x} {y} 1 1 re f" for y in ys for x in range(int(xs[0]), int(xs[-1]) + 1, 3)]
            + [f"{x} {y} 1 1 re f" for x in xs for y in range(int(ys[-1]), int(ys[0]) + 1, 3)]
        ),
        "pieces": lambda: "\n".join(
            [stroked(a, y, b - 1, y) for y in ys for a, b in pairwise(xs)]
            + [stroked(x, b + 1, x, a) for x in xs for a, b in pairwise(ys)]
        ),
    }[how]()
    return words(rows, top), drawn


def said(content: Content) -> list[tuple[str, int | None, str]]:
    return [(e.kind, e.row, content.text[e.start : e.end]) for e in content.elements]


def rows_of(content: Content) -> list[tuple[str, int | None, str]]:
    return [one for one in said(content) if one[0] in ("header", "row")]


def printed(*pages: Drawn, font: str = LATIN, extra: str = "") -> Content:
    text, drawn = zip(*pages, strict=True)
    return read(pdf(list(text), font, drawn=list(drawn), extra=extra))


EXPECTED = [
    ("header", 1, "Item | Price | Stock"),
    ("row", 2, "Gateway | 1200 | 14"),
    ("row", 3, "Sensor | 310 | 250"),
]


@pytest.mark.parametrize(
    "how", ["lines", "fills", "boxes", "shades", "one path", "scaled", "dots", "pieces"]
)
def test_a_table_is_read_however_its_rules_are_drawn(how: str) -> None:
    assert said(printed(table(PRICES, how=how))) == EXPECTED


def test_text_stands_before_and_after_its_table() -> None:
    text, drawn = table(PRICES)
    above, below = (72.0, 740.0, 12.0, "Our prices."), (72.0, 580.0, 12.0, "Without tax.")
    assert [text for _, _, text in said(printed(([above, *text, below], drawn)))] == [
        "Our prices.", *(line for _, _, line in EXPECTED), "Without tax.",
    ]  # fmt: skip


def test_chinese_lines_of_a_cell_are_joined_without_a_space() -> None:
    rows = [["情形", "标准"], ["出差", ""]]
    lines = [(186.0, 664.0, 9.0, "单程飞行超过六小时的"), (186.0, 654.0, 9.0, "可乘坐公务舱")]
    content = printed((words(rows) + lines, table(rows)[1]), font=CHINESE)
    assert said(content) == [
        ("header", 1, "情形 | 标准"), ("row", 2, "出差 | 单程飞行超过六小时的可乘坐公务舱"),
    ]  # fmt: skip


def test_a_word_that_is_parted_in_a_cell_is_whole_again() -> None:
    rows = [["Item", "Note"], ["Gateway", ""]]
    lines = [(186.0, 664.0, 9.0, "keeps its measure-"), (186.0, 654.0, 9.0, "ments for days")]
    content = printed((words(rows) + lines, table(rows)[1]))
    assert rows_of(content)[1] == ("row", 2, "Gateway | keeps its measurements for days")


def test_an_empty_cell_keeps_those_after_it_below_their_header() -> None:
    rows = [["Item", "Price", "Stock"], ["Gateway", "", "14"]]
    assert rows_of(printed(table(rows)))[1] == ("row", 2, "Gateway |  | 14")


def test_a_cell_over_several_rows_stands_in_each_of_them() -> None:
    rows = [["City", "Grade"], ["Beijing", "A"], ["", "B"]]
    xs, ys = places(rows)
    across = [stroked(xs[0], y, xs[-1], y) for y in (ys[0], ys[1], ys[3])]
    drawn = "\n".join(
        [*across, stroked(xs[1], ys[2], xs[2], ys[2]), *(stroked(x, ys[3], x, ys[0]) for x in xs)]
    )
    assert rows_of(printed((words(rows), drawn)))[1:] == [
        ("row", 2, "Beijing | A"), ("row", 3, "Beijing | B"),
    ]  # fmt: skip


def test_a_header_of_two_lines_is_one() -> None:
    rows = [["Area", "Sales", ""], ["", "Q1", "Q2"], ["North", "10", "20"]]
    xs, ys = places(rows)
    drawn = "\n".join(
        [stroked(xs[0], y, xs[3], y) for y in (ys[0], ys[2], ys[3])]
        + [stroked(xs[1], ys[1], xs[3], ys[1]), stroked(xs[2], ys[3], xs[2], ys[1])]
        + [stroked(xs[i], ys[3], xs[i], ys[0]) for i in (0, 1, 3)]
    )
    assert rows_of(printed((words(rows), drawn))) == [
        ("header", 1, "Area | Sales Q1 | Sales Q2"), ("row", 3, "North | 10 | 20"),
    ]  # fmt: skip


def test_a_table_open_at_its_sides_keeps_its_outer_columns() -> None:
    xs, ys = places(PRICES)
    across = [stroked(xs[0], y, xs[-1], y) for y in ys]
    drawn = "\n".join([*across, *(stroked(x, ys[-1], x, ys[0]) for x in xs[1:-1])])
    assert said(printed((words(PRICES), drawn))) == EXPECTED


def test_a_table_on_a_page_that_is_turned_is_read_as_it_is_seen() -> None:
    text, drawn = table(PRICES)
    turn = "0 1 -1 0 595 0"  # as it was made: sideways, for /Rotate to set upright
    laid = [(x, y, size, shown) for x, y, size, shown in text]
    content = read(pdf([laid], drawn=[drawn], extra="/Rotate 90", wrap=f"q {turn} cm\n%s\nQ"))
    assert rows_of(content) == EXPECTED


def test_two_tables_on_a_page_are_two() -> None:
    (text, drawn), (more, below) = table(PRICES), table(PRICES[:2], top=500)
    assert [row for _, row, _ in said(printed((text + more, drawn + "\n" + below)))] == [
        1, 2, 3, 1, 2,
    ]  # fmt: skip


# --- over pages -----------------------------------------------------------------------------------

NEXT = [["Camera", "90", "3"], ["Cable", "5", "900"]]


def test_a_table_that_goes_on_on_the_next_page_keeps_its_header_and_counts_on() -> None:
    content = printed(table(PRICES), table(NEXT))
    assert said(content) == [
        *EXPECTED, ("row", 4, "Camera | 90 | 3"), ("row", 5, "Cable | 5 | 900"),
    ]  # fmt: skip
    assert [e.page for e in content.elements] == [1, 1, 1, 2, 2]


def test_a_header_that_is_printed_again_is_told_once() -> None:
    assert rows_of(printed(table(PRICES), table([PRICES[0], *NEXT]))) == [
        *EXPECTED, ("row", 4, "Camera | 90 | 3"), ("row", 5, "Cable | 5 | 900"),
    ]  # fmt: skip


def test_a_last_row_alone_on_the_next_page_belongs_to_the_table() -> None:
    assert rows_of(printed(table(PRICES), table(NEXT[:1]))) == [
        *EXPECTED, ("row", 4, "Camera | 90 | 3"),
    ]  # fmt: skip


def test_a_row_of_boxes_is_no_table() -> None:
    assert rows_of(printed(table(PRICES[:1]), table(NEXT[:1]))) == []


def test_what_stands_on_every_page_does_not_part_a_table() -> None:
    (text, drawn), (more, below) = table(PRICES), table(NEXT)
    first: list[Line] = [(72, 800, 9, "Price list"), *text, (72, 40, 9, "Page 1 of 2")]
    second: list[Line] = [(72, 800, 9, "Price list"), *more, (72, 40, 9, "Page 2 of 2")]
    assert [row for _, row, _ in rows_of(printed((first, drawn), (second, below)))] == [
        1, 2, 3, 4, 5,
    ]  # fmt: skip


@pytest.mark.parametrize("caption", ["These are other prices.", "Table 2"])
def test_text_between_them_parts_two_tables(caption: str) -> None:
    (text, drawn), (more, below) = table(PRICES), table(NEXT)
    first: list[Line] = [(72, 740, 12, "Table 1"), *text]
    content = printed((first, drawn), ([(72, 740, 12, caption), *more], below))
    assert [row for _, row, _ in rows_of(content)] == [1, 2, 3, 1, 2]


def test_other_columns_are_another_table() -> None:
    content = printed(table(PRICES), table([["Name", "Age"], ["Li", "40"]]))
    assert [kind for kind, _, _ in rows_of(content)] == ["header", "row", "row", "header", "row"]


# --- what is none ---------------------------------------------------------------------------------

TEXT: list[Line] = [
    (80.0, 690.0 - 18 * i, 12.0, f"Sentence number {i} of this page.") for i in range(6)
]
GRID = lines_of([80, 160, 240, 320, 400], [700, 660, 620, 580, 540])


@pytest.mark.parametrize(
    "drawn",
    [
        "\n".join(stroked(80, y - 2, 260, y - 2) for _, y, _, _ in TEXT),  # underlined
        boxes_of([72, 400], [710, 580]),  # in a box
        boxes_of([20, 575], [822, 20]) + "\n" + stroked(20, 760, 575, 760),  # a framed page
        boxes_of([72, 400], [710, 650, 580]),  # two boxes
        boxes_of([72, 76, 400], [710, 580], "f"),  # a bar at the side
        boxes_of([60, 70, 400], [710, 650, 580]),  # and in a box
        GRID + "\n" + stroked(80, 540, 400, 700),  # a chart over the text
    ],
)
def test_text_with_lines_about_it_is_text(drawn: str) -> None:
    text = TEXT[:1] if drawn.startswith(GRID) else TEXT
    expected = said(printed((text, "")))
    assert said(printed((text, drawn))) == expected


def test_a_chart_with_a_few_numbers_in_it_is_none() -> None:
    text: list[Line] = [(100, 670, 10, "12"), (260, 630, 10, "25"), (340, 590, 10, "31")]
    assert rows_of(printed((text, GRID))) == []


def test_a_page_of_very_many_lines_is_a_drawing() -> None:
    hatch = "\n".join(f"{x} 0 m {x} 800 l 0 {x} m 595 {x} l S" for x in range(1, 595))
    started = time.monotonic()
    assert rows_of(printed((TEXT, "\n".join([hatch] * 12)))) == []
    assert time.monotonic() - started < 2


def test_many_lines_that_cross_cost_little() -> None:
    rules = Rules(
        [Rule(7.0 * i, 0, 9000) for i in range(900)], [Rule(7.0 * i, 0, 9000) for i in range(900)]
    )
    started = time.monotonic()
    assert grids(rules) == []
    assert time.monotonic() - started < 1


# --- any table ------------------------------------------------------------------------------------

CELL = st.text("abcXYZ019.,", min_size=1, max_size=9).filter(lambda text: text.strip("., "))


@st.composite
def tables(draw: st.DrawFn) -> list[list[str]]:
    columns = draw(st.integers(2, 4))
    row = st.lists(CELL, min_size=columns, max_size=columns)
    return draw(st.lists(row, min_size=2, max_size=8))


@settings(max_examples=60, deadline=None)
@given(rows=tables(), how=st.sampled_from(["lines", "fills", "boxes", "shades", "pieces"]))
def test_any_table_is_read_back_cell_by_cell(rows: list[list[str]], how: str) -> None:
    assert said(printed(table(rows, how=how))) == [
        ("row" if number > 1 else "header", number, " | ".join(row))
        for number, row in enumerate(rows, 1)
    ]


@st.composite
def merged(draw: st.DrawFn) -> tuple[int, int, tuple[int, int, int, int]]:
    """Rows, columns, and the first and last row and column of a cell that spans several."""
    rows, columns = draw(st.integers(3, 6)), draw(st.integers(3, 5))
    top, left = draw(st.integers(0, rows - 1)), draw(st.integers(0, columns - 1))
    bottom, right = draw(st.integers(top, rows - 1)), draw(st.integers(left, columns - 1))
    return rows, columns, (top, bottom, left, right)


@settings(max_examples=60, deadline=None)
@given(shape=merged(), drift=st.floats(-1, 1), data=st.data())
def test_a_cell_that_spans_others_is_one(
    shape: tuple[int, int, tuple[int, int, int, int]], drift: float, data: st.DataObject
) -> None:
    rows, columns, (top, bottom, left, right) = shape
    rules = Rules()
    for row in range(rows + 1):
        for column in range(columns):
            if not (top < row <= bottom and left <= column <= right):
                rules.add((50.0 * column, -20.0 * row), (50.0 * column + 50, -20.0 * row + drift))
    for column in range(columns + 1):
        for row in range(rows):
            if not (left < column <= right and top <= row <= bottom):
                rules.add((50.0 * column, -20.0 * row), (50.0 * column + drift, -20.0 * row - 20))
    rules.horizontal = data.draw(st.permutations(rules.horizontal))
    whole = (top, bottom, left, right) == (0, rows - 1, 0, columns - 1)
    lines = {rule.at for rule in rules.horizontal}, {rule.at for rule in rules.vertical}
    found = grids(rules)
    if whole or len(lines[0]) < 2 or len(lines[1]) < 3:
        assert found == []
        return
    (grid,) = found
    for row in range(len(grid.ys) - 1):
        for column in range(len(grid.xs) - 1):
            x = (grid.xs[column] + grid.xs[column + 1]) / 2
            y = (grid.ys[row] + grid.ys[row + 1]) / 2
            inside = left <= int(x // 50) <= right and top <= int(-y // 20) <= bottom
            cell = grid.cell_at(x, y)
            assert cell is not None
            assert (cell == grid.cells.get(_place_in(grid, left, top))) == inside


def _place_in(grid: Grid, left: int, top: int) -> tuple[int, int]:
    """The row and column of a point just inside the cell that spans others."""
    cell = grid.cell_at(50.0 * left + 5, -20.0 * top - 5)
    assert cell is not None
    return cell.row, cell.column


PLACES = st.integers(6, 70).map(lambda n: 8.0 * n)


@settings(max_examples=60, deadline=None)
@given(
    xs=st.lists(PLACES, min_size=1, max_size=6),
    ys=st.lists(PLACES, min_size=1, max_size=6),
    boxes=st.lists(st.tuples(PLACES, PLACES, PLACES, PLACES), max_size=5),
    spots=st.lists(st.tuples(PLACES, PLACES, CELL), min_size=1, max_size=12),
)
def test_nothing_is_lost_whatever_is_drawn_about_it(
    xs: list[float],
    ys: list[float],
    boxes: list[tuple[float, float, float, float]],
    spots: list[tuple[float, float, str]],
) -> None:
    drawn = [stroked(40, y, 580, y) for y in ys] + [stroked(x, 40, x, 580) for x in xs]
    drawn += [f"{x} {y} {w} {h} re S" for x, y, w, h in boxes]
    text: list[Line] = [(x, y, 10.0, shown) for x, y, shown in spots]
    plain, ruled = printed((text, "")), printed((text, "\n".join(drawn)))
    letters = [Counter(re.sub(r"[\s|]", "", content.text)) for content in (plain, ruled)]
    assert letters[0] <= letters[1]
