"""Formats whose text is the source itself: txt, md, csv, tsv, json, jsonl."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import DamagedFileError
from rag.load import load
from rag.types import Content, Element

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\n\t 一、"))
WORDS = st.text("甲乙丙abc 1。，", min_size=1, max_size=12).filter(str.strip)


def read(name: str, text: str) -> Content:
    return load(Path(name), text.encode(), max_bytes=2**24)


def said(content: Content) -> list[tuple[str, str]]:
    return [(e.kind, content.text[e.start : e.end]) for e in content.elements]


def path_of(content: Content, text: str) -> tuple[str, ...]:
    return next(e.heading for e in content.elements if content.text[e.start : e.end] == text)


def assert_in_order(content: Content) -> None:
    end = 0
    for element in content.elements:
        assert end <= element.start < element.end <= len(content.text)
        end = element.end


def uncovered(content: Content) -> str:
    left = list(content.text)
    for element in content.elements:
        left[element.start : element.end] = " " * (element.end - element.start)
    return "".join(left).strip()


# --- txt ----------------------------------------------------------------------------------------


@given(TEXT.filter(lambda text: text.strip().lstrip("\ufeff").strip() != ""))
def test_every_character_of_a_text_file_is_in_one_element(text: str) -> None:
    content = load(Path("a.txt"), text.encode("utf-8-sig"), max_bytes=2**20)
    assert content.text == text.removeprefix("\ufeff")
    assert_in_order(content)
    assert uncovered(content) == ""


def test_paragraphs_are_separated_by_blank_lines() -> None:
    content = read("a.txt", "\n 第一段\n续行\n \t\n\n第二段 \n")
    assert said(content) == [("text", "第一段\n续行"), ("text", "第二段")]


@pytest.mark.parametrize(
    "line",
    ["第一章 总则", "第十二章", "第3章：安装", "一、设备领用", "1.2 适用范围", "Chapter 3 Setup",
     "2. ACCOUNTS AND PASSWORDS"],
)  # fmt: skip
def test_a_line_that_can_only_be_a_heading_is_one(line: str) -> None:
    content = read("a.txt", f"前言。\n\n{line}\n\n正文一句。\n")
    assert ("heading", line) in said(content)
    assert path_of(content, "正文一句。") == (line,)


@pytest.mark.parametrize(
    "line",
    ["第一条 为了规范管理，制定本办法。", "一、苹果，梨", "1.2 版本已经发布。",
     "第三章中我们说过，", "2024.10.21", "3.14 2.71", "我们在第一章 总则里说过"],
)  # fmt: skip
def test_a_sentence_or_a_number_is_no_heading(line: str) -> None:
    content = read("a.txt", f"前言。\n\n{line}\n\n正文。\n")
    assert ("text", line) in said(content)


def test_items_of_a_list_are_no_headings() -> None:
    content = read("a.txt", "一、苹果\n\n二、香蕉\n\n三、梨")
    assert [kind for kind, _ in said(content)] == ["text", "text", "text"]


def test_chapters_without_blank_lines_are_still_found() -> None:
    content = read("a.txt", "第一章 总则\n本规定适用于全体员工。\n第二章 休假\n年假十五天。")
    assert path_of(content, "年假十五天。") == ("第二章 休假",)
    assert uncovered(content) == ""


# --- md -----------------------------------------------------------------------------------------

MARKDOWN = """---
title: 元数据
---
# 员工 **手册**

引言
两行。

## 假期 ##

| 司龄 | 天数 |
|------|------|
| 1 年 | 10 |
| 5 年 | 15 |

```python
# 不是标题
x = 1
```

- 一项
- 二项

      缩进的代码

1. 步骤

   ```sh
   ls
   ```

   说明

***

Setext
------

> 引文

[1]: https://example.com
"""


def test_markdown_blocks_get_their_kinds() -> None:
    content = read("手册.md", MARKDOWN)
    assert content.text == MARKDOWN
    assert content.title == "员工 手册"
    assert said(content) == [
        ("text", "---\ntitle: 元数据\n---"),
        ("heading", "# 员工 **手册**"),
        ("text", "引言\n两行。"),
        ("heading", "## 假期 ##"),
        ("header", "| 司龄 | 天数 |"),
        ("row", "| 1 年 | 10 |"),
        ("row", "| 5 年 | 15 |"),
        ("code", "```python\n# 不是标题\nx = 1\n```"),
        ("text", "- 一项\n- 二项"),
        ("code", "      缩进的代码"),
        ("text", "1. 步骤"),
        ("code", "   ```sh\n   ls\n   ```"),
        ("text", "说明"),
        ("heading", "Setext\n------"),
        ("text", "> 引文"),
        ("text", "[1]: https://example.com"),
    ]


def test_markdown_heading_paths_follow_the_levels() -> None:
    content = read("a.md", "# A\n\n### C\n\ntext c\n\n## B\n\ntext b\n\n# D\n\ntext d\n")
    assert path_of(content, "text c") == ("A", "C")
    assert path_of(content, "text b") == ("A", "B")
    assert path_of(content, "text d") == ("D",)
    assert path_of(content, "### C") == ("A",)


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("## 二级\n\n文", "stem"),
        ("文", "stem"),
        ("---\ntitle: 'T'\n---\n文", "T"),
        ("H\n=\n文", "H"),
    ],
)
def test_a_markdown_title_is_the_first_h1_or_the_stem(text: str, title: str) -> None:
    assert read("stem.md", text).title == title


def test_a_front_matter_that_never_ends_is_a_rule() -> None:
    content = read("a.md", "---\n\n# 标题\n\n正文")
    assert said(content) == [("heading", "# 标题"), ("text", "正文")]


MARKDOWN_BLOCKS = st.lists(
    st.one_of(
        WORDS,
        WORDS.map(lambda w: f"## {w}"),
        WORDS.map(lambda w: f"```\n{w}\n"),
        WORDS.map(lambda w: f"- {w}\n  - {w}"),
        WORDS.map(lambda w: f"> {w}\n> # {w}"),
        WORDS.map(lambda w: f"| {w} | b |\n|---|---|\n| c | {w} |"),
        WORDS.map(lambda w: f"    {w}"),
        st.sampled_from(["---", "***", "<div>\n甲\n</div>", "[a]: b", "\t", "|", "```", "a\n==="]),
    ),
    max_size=8,
)


@given(MARKDOWN_BLOCKS, st.sampled_from(["\n", "\n\n"]))
def test_markdown_elements_are_in_order_and_lose_no_words(blocks: list[str], gap: str) -> None:
    text = "甲\n\n" + gap.join(blocks)
    content = read("a.md", text)
    assert content.text == text
    assert_in_order(content)
    assert not set(uncovered(content)) & set("甲乙丙abc1。，")


# --- csv, tsv -----------------------------------------------------------------------------------

CELLS = st.text("甲ab \",;\n'|", max_size=6)


@given(
    st.lists(
        st.lists(CELLS, min_size=3, max_size=3).filter(lambda r: "".join(r).strip()), min_size=1
    ),
    st.sampled_from(["\n", "\r\n"]),
)
def test_a_csv_element_holds_exactly_the_characters_of_its_record(
    records: list[list[str]], newline: str
) -> None:
    file = _Lines()
    writer = csv.writer(file, lineterminator=newline, quoting=csv.QUOTE_ALL)
    writer.writerows(records)
    content = read("a.csv", "".join(file.lines))
    assert_in_order(content)
    assert [e.kind for e in content.elements] == ["header"] + ["row"] * (len(records) - 1)
    raws = [content.text[e.start : e.end] for e in content.elements]
    assert [next(csv.reader(raw.splitlines(keepends=True))) for raw in raws] == records


class _Lines:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_quoted_line_break_stays_in_its_record_whatever_the_delimiter(delimiter: str) -> None:
    text = delimiter.join(["姓名", "备注"]) + "\n" + delimiter.join(["张三", '"两\n行"']) + "\n"
    content = read("a.csv", text)
    assert said(content) == [
        ("header", delimiter.join(["姓名", "备注"])),
        ("row", delimiter.join(["张三", '"两\n行"'])),
    ]


def test_a_quote_that_is_never_closed_does_not_swallow_the_file() -> None:
    content = read("a.csv", 'a,b\n1,"open\n2,x\n3,y\n')
    assert [text for _, text in said(content)] == ["a,b", '1,"open', "2,x", "3,y"]


def test_a_tsv_row_keeps_its_empty_first_cell() -> None:
    assert said(read("a.tsv", "a\tb\n\n\tc\n")) == [("header", "a\tb"), ("row", "\tc")]


# --- json, jsonl --------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.lists(JSON, min_size=1), st.sampled_from([None, 2]), st.booleans())
def test_each_item_of_a_json_list_is_a_row(items: list[object], indent: int, ascii_: bool) -> None:
    text = json.dumps(items, indent=indent, ensure_ascii=ascii_)
    content = read("a.json", text)
    assert [e.kind for e in content.elements] == ["row"] * len(items)
    assert [json.loads(content.text[e.start : e.end]) for e in content.elements] == items


def test_members_of_an_object_are_rows_and_lists_of_objects_are_opened() -> None:
    text = '{"title": "说明", "n": [1, 2],\n "items": [{"a": 1}, {"b": [2]}]}'
    content = read("a.json", text)
    assert content.title == "说明"
    assert [text for _, text in said(content)] == [
        '"title": "说明"', '"n": [1, 2]', '{"a": 1}', '{"b": [2]}'
    ]  # fmt: skip
    assert content.elements[-1].heading == ("items",)


def test_each_line_of_jsonl_is_a_row() -> None:
    assert said(read("a.jsonl", '{"a": 1}\n\n [2] \n')) == [("row", '{"a": 1}'), ("row", "[2]")]


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("a.json", '{"a": 1,\n "b" 2}', "line 2 column 6"),
        ("a.json", "[1, 2", "line 1 column 6"),
        ("a.json", "[1,]", "line 1 column 4"),
        ("a.json", "[1] 2", "line 1 column 5"),
        ("a.json", "{1: 2}", "line 1 column 2"),
        ("a.jsonl", '{"a": 1}\n {"a" 1}\n', "line 2 column 7"),
    ],
)
def test_broken_json_names_line_and_column(name: str, text: str, place: str) -> None:
    with pytest.raises(DamagedFileError, match=place):
        read(name, text)


def test_json_nested_beyond_reason_is_damaged_and_no_crash() -> None:
    with pytest.raises(DamagedFileError, match="nested too deeply"):
        read("a.json", "[" * 100_000)


# --- all ----------------------------------------------------------------------------------------


def test_newlines_nul_and_marks_are_normalised_one_for_one() -> None:
    content = load(Path("a.txt"), "\ufeffa\r\nb\rc\0d".encode(), max_bytes=99)
    assert content.text == "a\nb\nc\ufffdd"


def test_an_element_is_where_it_says_after_characters_beyond_the_first_plane() -> None:
    content = read("a.md", "# 𠮷野家\n\n正文😀。\n")
    assert content.elements[1] == Element("text", 7, 11, ("𠮷野家",))
