"""Tables of every type: rows keep their headers and their numbers, as a person counts them."""

from __future__ import annotations

import datetime as dt
import io
from pathlib import Path
from typing import Any

import docx
import openpyxl
import pptx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.citations import citation, cite
from rag.load import load
from rag.split import Splitter
from rag.types import Chunk, Content, Document, Element, Hit
from rag.wire import hit_json
from tests.fakes import FakeEmbedder

FAST = settings(deadline=None, derandomize=True, database=None, max_examples=60)
count = FakeEmbedder().count_tokens
HEADER = ["编号", "姓名", "金额"]
SLOW = pytest.mark.slow


def read(name: str, data: bytes) -> Content:
    return load(Path(name), data, max_bytes=2**24)


def document_of(content: Content) -> Document:
    return Document(
        id="d", uri="u", name="n", type=content.type, title=content.title, text=content.text,
        elements=content.elements, content_hash="",
    )  # fmt: skip


def cut(content: Content, *, size: int = 40) -> list[Chunk]:
    return Splitter(count, size=size, overlap=10).split(document_of(content))


def rows_of(content: Content) -> list[tuple[str, int | None, str]]:
    return [(e.kind, e.row, content.text[e.start : e.end]) for e in content.elements]


def saved(document: Any) -> bytes:
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def sheet_of(*rows: list[Any], title: str = "Sheet1") -> Any:
    book = openpyxl.Workbook()
    book.active.title = title
    for row in rows:
        book.active.append(row)
    return book


def as_csv(rows: list[list[str]]) -> bytes:
    return "\n".join(",".join(row) for row in rows).encode()


def as_markdown(rows: list[list[str]]) -> bytes:
    lines = [" | ".join(row) for row in rows]
    return "\n".join([lines[0], "|".join(["---"] * len(rows[0])), *lines[1:]]).encode()


def as_html(rows: list[list[str]]) -> bytes:
    cells = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>".encode()


def as_xlsx(rows: list[list[str]]) -> bytes:
    return saved(sheet_of(*rows))


def as_docx(rows: list[list[str]]) -> bytes:
    document = docx.Document()
    table = document.add_table(len(rows), len(rows[0]))
    for y, row in enumerate(rows):
        for x, text in enumerate(row):
            table.cell(y, x).text = text
    return saved(document)


def as_pptx(rows: list[list[str]]) -> bytes:
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[6])
    table = slide.shapes.add_table(len(rows), len(rows[0]), 0, 0, 99, 99).table
    for y, row in enumerate(rows):
        for x, text in enumerate(row):
            table.cell(y, x).text = text
    return saved(deck)


WRITERS = [
    pytest.param("a.csv", as_csv, id="csv"),
    pytest.param("a.md", as_markdown, id="md"),
    pytest.param("a.html", as_html, id="html", marks=SLOW),
    pytest.param("a.xlsx", as_xlsx, id="xlsx", marks=SLOW),
    pytest.param("a.docx", as_docx, id="docx", marks=SLOW),
    pytest.param("a.pptx", as_pptx, id="pptx", marks=SLOW),
]


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_each_row_of_a_long_table_is_numbered_and_comes_with_its_header(
    name: str, write: Any
) -> None:
    table = [HEADER, *([f"K{n}", f"员工{n}", f"{n * 7}.50"] for n in range(2, 40))]
    content = read(name, write(table))
    chunks = cut(content)
    assert len(chunks) > 5
    for number, row in enumerate(table, 1):
        (chunk,) = [c for c in chunks if row[1] in _words(c.text)]
        assert all(title in chunk.embedded_text for title in HEADER)
        start = chunk.start + chunk.text.index(row[0])
        assert chunk.row_between(start, start + 1) == number


def _words(text: str) -> list[str]:
    for separator in "|,\n":
        text = text.replace(separator, " ")
    return text.split()


# --- any mix of tables and text -------------------------------------------------------------------

BLOCK = st.one_of(
    st.tuples(st.just("table"), st.integers(0, 9)),
    st.tuples(st.just("note"), st.integers(1, 40)),
    st.tuples(st.just("page"), st.just(0)),
)


@FAST
@given(st.lists(BLOCK, min_size=1, max_size=8), st.integers(32, 80))
def test_no_row_is_ever_apart_from_its_header(blocks: list[tuple[str, int]], size: int) -> None:
    text, elements, page, tables, row = "", [], 1, 0, 0

    def add(kind: Any, words: str, number: int | None = None) -> None:
        nonlocal text
        elements.append(Element(kind, len(text), len(text) + len(words), page=page, row=number))
        text += words + "\n"

    for kind, amount in blocks:
        if kind == "table":
            tables, row = tables + 1, 1
            add("header", f"表{tables}头 | 数量", 1)
        if kind == "page":
            page += 1
        if kind == "note":
            add("text", "注" * amount)
        for _ in range(amount if kind == "table" else 2 if tables else 0):
            row += 1
            add("row", f"表{tables}行{row} | {'值' * (row % 9)}", row)
    if not elements:
        return
    content = Content(type="x", title="T", text=text, elements=tuple(elements))
    chunks = cut(content, size=size)
    for element in elements:
        if element.kind == "row":
            words = text[element.start : element.end]
            (chunk,) = [c for c in chunks if c.start <= element.start < c.end]
            assert words.split("行")[0] + "头" in chunk.embedded_text
            assert chunk.row_between(element.start, element.end) == element.row
        elif element.kind == "text":
            (chunk,) = [c for c in chunks if c.start <= element.start < c.end]
            assert chunk.row_between(element.start, element.end) is None


def test_a_header_longer_than_a_chunk_is_cut_between_cells() -> None:
    header = ",".join(f"一个很长的列名{n}" for n in range(99))
    table = f"{header}\n" + "\n".join(["值" * 20] * 30)
    last = cut(read("a.csv", table.encode()))[-1]
    shown = last.context.split("\n")[1]
    assert header.startswith(shown + ",")
    assert 200 < len(shown) <= 300


# --- csv ------------------------------------------------------------------------------------------


def test_a_record_is_numbered_as_a_spreadsheet_shows_it() -> None:
    content = read("a.csv", '名,值\n\n"两\n行",1\n,\n丙,3\n'.encode())
    assert rows_of(content) == [
        ("header", 1, "名,值"), ("row", 3, '"两\n行",1'), ("row", 5, "丙,3")
    ]  # fmt: skip


def test_lines_are_numbered_where_a_quote_is_never_closed() -> None:
    content = read("a.csv", b'a,b\n\n1,"x\n2,y\n')
    assert [row for _, row, _ in rows_of(content)] == [1, 3, 4]


# --- xlsx -----------------------------------------------------------------------------------------


@SLOW
def test_a_header_of_two_lines_becomes_one() -> None:
    book = sheet_of(
        ["2026 年收入"], ["部门", "收入", None, "备注"], [None, "一季度", "二季度"],
        ["研发", 10, 20, "好"], [], ["注：税前"], ["市场", 30, 40],
    )  # fmt: skip
    book.active.merge_cells("B2:C2")
    book.active.merge_cells("A2:A3")
    book.active.merge_cells("D2:D3")
    content = read("a.xlsx", saved(book))
    assert rows_of(content)[1:] == [
        ("text", None, "2026 年收入"),
        ("header", 2, "部门 | 收入 一季度 | 收入 二季度 | 备注"),
        ("row", 4, "研发 | 10 | 20 | 好"),
        ("text", None, "注：税前"),
        ("row", 7, "市场 | 30 | 40"),
    ]
    below_the_note = cut(content)[-1]
    assert "收入 一季度" in below_the_note.embedded_text


@SLOW
@pytest.mark.parametrize("second", [["研发", 1, 2], ["研发", "甲", None], ["研发", "12.5%", "3"]])
def test_a_row_of_data_is_no_second_line_of_a_header(second: list[Any]) -> None:
    book = sheet_of(["部门", "收入", None], second, ["市场", 3, 4])
    book.active.merge_cells("B1:C1")
    assert [row for _, row, _ in rows_of(read("a.xlsx", saved(book)))] == [None, 1, 2, 3]


@SLOW
def test_a_second_table_of_a_sheet_has_its_own_header() -> None:
    book = sheet_of(
        ["甲", "乙", "丙"], ["x", 1, 2], [], ["表二"],
        ["城市", "人口"], ["上海", 2487], ["北京", 2189],
        [], ["小计", "见上"], ["没有", "数字"],
    )  # fmt: skip
    kinds = [(kind, row) for kind, row, _ in rows_of(read("a.xlsx", saved(book)))]
    assert kinds[1:] == [
        ("header", 1), ("row", 2), ("text", None), ("header", 5), ("row", 6), ("row", 7),
        ("row", 9), ("row", 10),
    ]  # fmt: skip


@SLOW
def test_a_hidden_sheet_is_left_out_and_said_to_be_but_hidden_rows_are_read() -> None:
    book = sheet_of(["名", "值"], ["甲", 1], ["乙", 2])
    book.active.row_dimensions[3].hidden = True
    book.create_sheet("旧").append(["秘密"])
    book["旧"].sheet_state = "hidden"
    content = read("a.xlsx", saved(book))
    assert [text for _, _, text in rows_of(content)] == ["Sheet1", "名 | 值", "甲 | 1", "乙 | 2"]
    assert content.notes == ("sheet 旧 is hidden and was left out",)


@SLOW
def test_dates_and_durations_are_written_as_they_are_shown() -> None:
    day = dt.datetime(2026, 1, 5)
    book = sheet_of(["日期", "a", "b", "c"], ["x", day, day, dt.timedelta(hours=30, minutes=5)])
    book.active["B2"].number_format = '[$-804]yyyy"年"m"月"d"日"'
    book.active["C2"].number_format = "yyyy/mm/dd"
    content = read("a.xlsx", saved(book))
    assert rows_of(content)[-1][2] == "x | 2026年1月5日 | 2026-01-05 | 30:05:00"


@SLOW
def test_formulas_without_a_stored_result_are_said_to_be_missing() -> None:
    book = sheet_of(["名", "值"], ["甲", "=1+1"], ["乙", 2])
    (note,) = read("a.xlsx", saved(book)).notes
    assert note.startswith("1 formulas have no stored result")


# --- html and docx --------------------------------------------------------------------------------


@SLOW
def test_wide_cells_of_a_page_keep_the_columns_in_line() -> None:
    content = read(
        "a.html",
        "<table><thead><tr><th rowspan=2>部门</th><th colspan=2>收入</th></tr>"
        "<tr><th>一季度</th><th>二季度</th></tr></thead><tr><td>研发</td><td>1</td><td>2</td></tr>"
        "<tr><td colspan=2>合计</td><td>2</td></tr></table>".encode(),
    )
    assert rows_of(content) == [
        ("header", 1, "部门 | 收入 一季度 | 收入 二季度"),
        ("row", 3, "研发 | 1 | 2"),
        ("row", 4, "合计 |  | 2"),
    ]


@SLOW
def test_merged_cells_of_a_word_table_name_their_columns() -> None:
    document = docx.Document()
    table = document.add_table(4, 3)
    for y, row in enumerate(
        [["收入表", "", ""], ["部门", "收入", ""], ["", "一季度", "二季度"], ["研发", "1", "2"]]
    ):
        for x, text in enumerate(row):
            table.cell(y, x).text = text
    table.cell(0, 0).merge(table.cell(0, 2))
    table.cell(1, 1).merge(table.cell(1, 2))
    table.cell(1, 0).merge(table.cell(2, 0))
    assert rows_of(read("a.docx", saved(document))) == [
        ("text", None, "收入表"),
        ("header", 2, "部门 | 收入 一季度 | 收入 二季度"),
        ("row", 4, "研发 | 1 | 2"),
    ]


# --- cited ----------------------------------------------------------------------------------------


def test_a_value_is_cited_by_the_row_it_stands_in() -> None:
    rows = [["名", "年假"], *([f"员工{n}", f"{n} 天"] for n in range(2, 30))]
    chunks = cut(read("a.csv", as_csv(rows)))
    chunk = next(c for c in chunks if "员工17" in c.text)
    hit = Hit(
        chunk=chunk, document="a.csv", title="a", score=1, dense=1, keyword=1, via="both"
    )  # fmt: skip
    cited = cite(1, hit, "员工17 的年假是 17 天")
    assert "员工17,17 天" in cited.quote
    assert cited.row is not None
    assert cited.row <= 17 <= cited.row + cited.quote.count("\n")
    start = chunk.start + chunk.text.index("员工17")
    assert citation(1, hit, start, start + 4).row == 17
    assert hit_json(1, hit)["row"] == chunk.rows[0][2]


@SLOW
def test_cells_that_span_without_end_do_not_blow_a_table_up() -> None:
    rows = "<tr><td colspan=99999>a</td><td colspan=100>b</td></tr>" * 3000
    content = read("a.html", f"<table>{rows}</table>".encode())
    assert len(content.text) < 50_000
