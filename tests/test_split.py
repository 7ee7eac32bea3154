"""Chunks follow the document's structure, lose nothing of it, and point into its text."""

from __future__ import annotations

import re
import time
import tracemalloc
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.load import load
from rag.split import Splitter
from rag.types import Chunk, Document, Element, ElementKind
from tests.fakes import FakeEmbedder

FAST = settings(deadline=None, derandomize=True, database=None, max_examples=80)
SIZE, OVERLAP = 40, 10
count = FakeEmbedder().count_tokens  # one token is one visible character


def cut(document: Document, *, size: int = SIZE, overlap: int = OVERLAP) -> list[Chunk]:
    return Splitter(count, size=size, overlap=overlap).split(document)


def document_of(text: str, *elements: Element, title: str = "Title") -> Document:
    whole = elements or (Element("text", 0, len(text)),)
    return Document(
        id="d",
        uri="file:d.md",
        name="d.md",
        type="md",
        title=title,
        text=text,
        elements=whole,
        content_hash="",
    )


def markdown(source: str) -> Document:
    content = load(Path("d.md"), source.encode(), max_bytes=10**6)
    return document_of(content.text, *content.elements, title=content.title)


@dataclass
class Draft:
    """A document in the making: blocks with white space between them."""

    text: str = ""
    elements: list[Element] = field(default_factory=list)
    path: tuple[str, ...] = ()

    def add(self, kind: ElementKind, words: str, gap: str, page: int | None, sheet: str | None):  # type: ignore[no-untyped-def]
        start = len(self.text)
        if kind == "heading":
            self.path = self.path[:1]
        self.elements.append(Element(kind, start, start + len(words), self.path, page, sheet))
        if kind == "heading":
            self.path = (*self.path, words)
        self.text += words + gap


SENTENCES = st.sampled_from(
    [
        "员工每年有十五天年假。",
        "请提前三天申请！",
        "为什么？",
        "他说：“可以。”",
        "费用先申请；再报销，最后归档。",
        "The limit is 3.5 GB. ",
        "Ask first! ",
        "See a, b; and c. ",
        "word ",
        "等等……",
        "\n",
        "\n\n",
        "\n\u3000\n",
        "字" * 29 + "\n\u3000\n",
        " \u200b",
        "e\u0301",
        "x" * 70,
        "很" * 50,
    ]
)
PARAGRAPHS = st.lists(SENTENCES, min_size=1, max_size=12).map(
    lambda parts: "".join(parts).strip() or "空"
)
ROWS = st.integers(1, 90).map(lambda n: " | ".join(["值", "v"] * ((n + 3) // 4))[: max(n, 1)])
CODE = st.integers(1, 8).map(lambda n: "```\n" + "for x in y:\n  f(x)\n" * n + "```")
BLOCKS = st.one_of(
    st.tuples(st.just("text"), PARAGRAPHS),
    st.tuples(st.just("text"), PARAGRAPHS),
    st.tuples(st.just("header"), st.just("名称 | 数量")),
    st.tuples(st.just("row"), ROWS.map(lambda r: r.strip() or "r")),
    st.tuples(st.just("code"), CODE),
    st.tuples(st.just("heading"), st.sampled_from(["第一章", "请假", "Leave", "Costs"])),
)
GAPS = st.sampled_from(["\n", "\n\n", "\n \n\n"])


@st.composite
def documents(draw: st.DrawFn) -> Document:
    draft = Draft()
    page, sheet = draw(st.sampled_from([(None, None), (1, None), (None, "表一")]))
    for _ in range(draw(st.integers(0, 9))):
        kind, words = draw(BLOCKS)
        draft.add(kind, words, draw(GAPS), page, sheet)  # type: ignore[arg-type]
        if draw(st.integers(0, 4)) == 0:
            page = page + 1 if page else page
            sheet = sheet + "二" if sheet else sheet
    return document_of(draft.text, *draft.elements) if draft.elements else document_of("空")


@FAST
@given(documents())
def test_every_chunk_is_a_piece_of_the_text_and_they_come_in_order(document: Document) -> None:
    chunks = cut(document)
    assert [c.ordinal for c in chunks] == list(range(len(chunks)))
    assert [(c.start, c.end) for c in chunks] == sorted({(c.start, c.end) for c in chunks})
    for chunk in chunks:
        assert chunk.text == document.text[chunk.start : chunk.end]
        assert chunk.text == chunk.text.strip() != ""
        assert chunk.document_id == document.id


@FAST
@given(documents())
def test_nothing_but_headings_is_left_out(document: Document) -> None:
    covered = {i for c in cut(document) for i in range(c.start, c.end)}
    for element in document.elements:
        if element.kind != "heading":
            for i in range(element.start, element.end):
                assert i in covered or document.text[i].isspace()


@FAST
@given(documents())
def test_a_heading_is_found_with_or_without_something_below_it(document: Document) -> None:
    chunks = cut(document)
    for element in document.elements:
        if element.kind == "heading":
            title = document.text[element.start : element.end]
            assert any(title in c.embedded_text for c in chunks)


@FAST
@given(documents())
def test_a_row_or_code_block_is_cut_only_if_it_is_longer_than_eight_chunks(
    document: Document,
) -> None:
    chunks = cut(document)
    for element in document.elements:
        if element.kind in ("row", "header", "code"):
            text = document.text[element.start : element.end]
            whole = any(c.start <= element.start and element.end <= c.end for c in chunks)
            assert whole or count(text) > 8 * SIZE


@FAST
@given(documents())
def test_a_chunk_stays_within_one_heading_page_and_sheet(document: Document) -> None:
    for chunk in cut(document):
        inside = [e for e in document.elements if e.start < chunk.end and e.end > chunk.start]
        places = {(e.heading, e.page, e.sheet) for e in inside}
        assert len(places) == 1
        assert len({e.kind == "heading" for e in inside}) == 1
        ((heading, page, sheet),) = places
        own = (chunk.text,) if inside[0].kind == "heading" else ()
        assert (chunk.heading, chunk.page, chunk.sheet) == ((*heading, *own), page, sheet)


@FAST
@given(documents())
def test_running_text_never_exceeds_the_size(document: Document) -> None:
    for chunk in cut(document):
        inside = [e for e in document.elements if e.start < chunk.end and e.end > chunk.start]
        if {e.kind for e in inside} == {"text"}:
            assert count(chunk.text) <= SIZE


@FAST
@given(documents())
def test_what_chunks_share_are_whole_sentences_within_the_overlap(document: Document) -> None:
    chunks = cut(document)
    for one, two in pairwise(chunks):
        if two.start < one.end:
            shared = document.text[two.start : one.end]
            assert count(shared) <= OVERLAP
            assert re.search(r"[。！？…”.!?\n]\s*$", document.text[: two.start])


@FAST
@given(documents())
def test_the_same_document_is_cut_the_same_way(document: Document) -> None:
    assert cut(document) == cut(document)


@FAST
@given(documents(), st.integers(32, 80), st.integers(0, 60))
def test_any_size_and_overlap_keep_the_text_whole(
    document: Document, size: int, overlap: int
) -> None:
    chunks = cut(document, size=size, overlap=overlap)
    covered = {i for c in chunks for i in range(c.start, c.end)}
    body = [e for e in document.elements if e.kind == "text"]
    assert all(
        i in covered or document.text[i].isspace() for e in body for i in range(e.start, e.end)
    )


# --- where it cuts --------------------------------------------------------------------------------


def texts(source: str, *, size: int = SIZE, overlap: int = 0) -> list[str]:
    return [c.text for c in cut(document_of(source), size=size, overlap=overlap)]


def filled(length: int, end: str) -> str:
    return "字" * (length - len(end)) + end


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("\n\n", "\n"),
        ("\n", "。"),
        ("。", ". "),
        ("！", "；"),
        ("？", ", "),
        (". ", "；"),
        ("! ", "，"),
        ("；", " "),
        ("，", " "),
        (" ", ""),
    ],
)
def test_a_cut_is_made_at_the_strongest_boundary(better: str, worse: str) -> None:
    first, second, third = filled(15, better), filled(15, worse), filled(15, "")
    pieces = texts(first + second + third)
    assert pieces[0] == first.strip()


def test_an_invisible_piece_between_two_cuts_moves_nothing() -> None:
    lines = ["甲" * 34, "乙" * 34, "丙" * 34]
    assert texts("\n\u3000\n".join(lines)) == lines


def test_closing_quotes_stay_with_their_sentence() -> None:
    first = filled(25, "说：“好的。”")
    assert texts(first + filled(25, "。"))[0] == first


def test_a_number_is_not_cut_at_its_point() -> None:
    pieces = texts("a" * 30 + " 3.5 " + "b" * 30)
    assert any("3.5" in piece for piece in pieces)


def test_neighbours_share_their_last_sentence() -> None:
    source = "甲" * 20 + "。" + "乙" * 7 + "。" + "丙" * 25 + "。"
    one, two = texts(source, overlap=OVERLAP)
    assert one.endswith("乙" * 7 + "。")
    assert two.startswith("乙" * 7 + "。丙")


def test_a_sentence_longer_than_the_overlap_is_not_shared() -> None:
    source = "甲" * 29 + "。" + "丙" * 29 + "。"
    assert texts(source, overlap=OVERLAP) == ["甲" * 29 + "。", "丙" * 29 + "。"]


def test_rows_share_nothing() -> None:
    rows = "\n".join(f"行{n} | " + "值" * 15 for n in range(6))
    elements, start = [], 0
    for row in rows.split("\n"):
        elements.append(Element("row", start, start + len(row)))
        start += len(row) + 1
    chunks = cut(document_of(rows, *elements))
    assert all(a.end <= b.start for a, b in pairwise(chunks))


# --- the context ----------------------------------------------------------------------------------

HANDBOOK = """# 员工手册

## 请假

### 年假

每年十五天。

| 工龄 | 天数 |
|---|---|
| 一年以下，尚在试用期的员工 | 五天，按月折算 |
| 一年以上，已经转正的员工们 | 十五天，可以顺延 |
| 十年以上，包括海外派驻员工 | 二十天，可以顺延 |

## 附录
"""


def test_the_context_is_the_title_and_the_path() -> None:
    chunk = cut(markdown(HANDBOOK))[0]
    assert chunk.context.split("\n")[0] == "员工手册 > 请假 > 年假"
    assert chunk.heading == ("员工手册", "请假", "年假")


def test_a_title_that_is_no_heading_comes_first() -> None:
    document = document_of("正文。", Element("text", 0, 3, ("第一章",)), title="手册")
    assert cut(document)[0].context == "手册 > 第一章"


def test_rows_apart_from_their_header_get_it_as_context() -> None:
    chunks = cut(markdown(HANDBOOK))
    later = [c for c in chunks if "十年以上" in c.text]
    assert len(later) == 1
    assert "工龄" not in later[0].text
    assert "| 工龄 | 天数 |" in later[0].context
    first = next(c for c in chunks if "工龄" in c.text)
    assert "工龄" not in first.context


def test_the_context_is_embedded_but_not_quoted() -> None:
    for chunk in cut(markdown(HANDBOOK)):
        assert chunk.embedded_text == f"{chunk.context}\n{chunk.text}"
        assert not chunk.text.startswith(chunk.context)


def test_a_heading_without_a_body_is_a_chunk_of_its_own() -> None:
    chunks = cut(markdown(HANDBOOK))
    assert chunks[-1].text == "## 附录"
    assert chunks[-1].heading == ("员工手册", "附录")
    assert not any(c.text.startswith(("# ", "## 请", "###")) for c in chunks)


def test_a_repeated_heading_without_a_body_is_not_mistaken_for_the_one_above_it() -> None:
    source = "# Guide\n\n## Notes\n\n### Guide\n\n### Other\n\nText.\n"
    chunks = cut(markdown(source))
    assert [c.text for c in chunks] == ["### Guide", "Text."]


def test_a_very_long_path_is_cut_short() -> None:
    heading = "很长的标题" * 100
    document = document_of("正文。", Element("text", 0, 3, (heading,)))
    assert len(cut(document)[0].context) <= 240


def test_the_settings_name_everything_that_changes_the_cut() -> None:
    named = {Splitter(count, size=s, overlap=o).settings for s in (40, 80) for o in (0, 10)}
    assert len(named) == 4


def test_a_document_without_text_has_no_chunks() -> None:
    assert cut(document_of(" \n ")) == []


def test_text_below_a_table_does_not_get_its_header() -> None:
    note = filled(SIZE - 2, "。")
    document = markdown(f"| Kind | Days |\n|---|---|\n| Sick | 8 |\n\n{note}\n")
    chunks = cut(document)
    assert "Sick" in chunks[0].text
    assert all("Kind" not in chunk.context for chunk in chunks[1:])
    assert len(chunks) > 1


# --- rows that are too long -----------------------------------------------------------------------


def wide(mark: str, columns: int, *, cell: str = "v") -> Document:
    rows = [mark.join(f"{kind}{n}" for n in range(columns)) for kind in ("c", cell)]
    text = "\n".join(rows)
    end = len(rows[0])
    header, row = Element("header", 0, end, row=1), Element("row", end + 1, len(text), row=2)
    return document_of(text, header, row)


@pytest.mark.parametrize("mark", [",", ";", "\t", "|", " | "])
def test_a_row_that_is_cut_is_cut_between_cells_and_keeps_the_names_above_them(mark: str) -> None:
    document = wide(mark, 500)
    chunks = cut(document)
    later = [c for c in chunks if c.start > document.elements[1].start]
    assert len(later) > 10
    for chunk in later:
        first = re.match(r"v(\d+)", chunk.text)
        assert first, chunk.text
        assert [row for _, _, row in chunk.rows] == [2]
        assert chunk.context.split("\n")[1].startswith(f"c{first[1]}{mark}")
        assert count(chunk.text) <= SIZE


def test_a_piece_of_a_cut_header_does_not_get_the_header() -> None:
    chunks = [c for c in cut(wide(",", 500)) if c.text.startswith("c")]
    assert len(chunks) > 10
    assert {chunk.context for chunk in chunks} == {"Title"}


def test_a_cut_row_with_other_cells_than_its_header_keeps_the_beginning_of_it() -> None:
    document = wide(",", 500)
    text = document.text + ',"a, b"'
    row = replace(document.elements[1], end=len(text))
    chunks = cut(document_of(text, document.elements[0], row))
    assert {c.context.split("\n")[1][:6] for c in chunks if c.start > row.start} == {"c0,c1,"}


@pytest.mark.slow
def test_a_row_of_a_hundred_thousand_columns_costs_little() -> None:
    content = load(Path("a.csv"), wide(",", 100_000).text.encode(), max_bytes=10**7)
    document = document_of(content.text, *content.elements)
    started = time.monotonic()
    chunks = cut(document, size=400, overlap=50)
    assert time.monotonic() - started < 30  # 2 s with nothing else running
    assert {row for chunk in chunks for _, _, row in chunk.rows} == {1, 2}
    assert max(count(chunk.text) for chunk in chunks) <= 400
    assert sum(len(chunk.context) + len(chunk.text) for chunk in chunks) < 4 * len(content.text)


def test_cutting_a_wide_row_takes_memory_in_proportion_to_it() -> None:
    document = wide(",", 10_000)
    tracemalloc.start()
    cut(document, size=400, overlap=50)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 50 * len(document.text)
