"""Puts HTML in order for `unstructured`, which drops or mangles a few things that carry meaning.

It leaves out everything inside `form`, `figure` and `details`, and blocks of a single character; it
turns a line break inside Chinese text into a space and a table used for layout into one long row;
and it knows nothing of cells that span rows.
"""

from __future__ import annotations

import codecs
import re
from copy import deepcopy
from typing import TYPE_CHECKING

from rag.load.decode import decode
from rag.load.deep import parsed_whole
from rag.load.headers import header_place, joined_headers

if TYPE_CHECKING:
    from lxml.html import HtmlElement  # type: ignore[import-untyped]

LINE_BREAK = "\ufdd0"  # stands for <br>; no text has it, Unicode keeps it for internal use
STAND_IN = "\ufdd1"  # makes a block of one character longer than one
_HEAD_BYTES = 4096
_CHARSET = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?\s*([A-Za-z0-9_.:-]+)""", re.IGNORECASE)
_CJK = r"[\u2e80-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef，。、；：！？“”‘’（）《》【】…—]"
_BREAK_IN_CJK = re.compile(rf"(?<={_CJK})[^\S\n]*\n\s*(?={_CJK})")
_TRANSPARENT = {
    "form": "div", "figure": "div", "figcaption": "p", "details": "div", "summary": "p",
    "fieldset": "div", "legend": "p", "label": "span", "dialog": "div",
}  # fmt: skip
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_MAX_COPIES = 10
_MAX_WIDTH = 100  # columns
_KEEP_BREAKS = {"pre", "textarea", "script", "style"}
_BLOCKS = {"p", "div", "li", "dd", "dt", "blockquote", "section", "article"}
_BLOCKS |= {"h1", "h2", "h3", "h4", "h5", "h6"}


def text_of_html(data: bytes, name: str) -> str:
    """A byte order mark decides, then the declared charset if the bytes fit it, then the bytes."""
    declared = _CHARSET.search(data[:_HEAD_BYTES])
    if declared and not data.startswith(
        (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    ):
        try:
            text = data.decode(known_charset(declared[1].decode("ascii")))
        except (LookupError, UnicodeDecodeError):
            return decode(data, name)
        return decode(text.encode("utf-8", errors="replace"), name)
    return decode(data, name)


def known_charset(charset: str) -> str:
    """The charset that is meant: what calls itself GB2312 or GBK is written in GB18030."""
    charset = charset.lower()
    if charset in ("gb2312", "gbk", "gb_2312-80", "x-gbk", "cp936", "936"):
        return "gb18030"
    return {"big5": "cp950", "iso-8859-1": "cp1252", "us-ascii": "cp1252"}.get(charset, charset)


def page_title(html: str) -> str:
    found = re.search(r"<title[^>]*>([^<]*)", html, re.IGNORECASE)
    from html import unescape

    return " ".join(unescape(found[1]).split()) if found else ""


def prepared(html: str) -> str:
    """The same page, in order. Empty if there is nothing in it."""
    from lxml import html as lxml_html  # type: ignore[import-untyped]

    # lxml takes no text that declares an encoding of its own
    html = re.sub(r"^\s*<\?xml[^>]*\?>", "", html)
    if not html.strip():
        return ""
    root = parsed_whole(html)
    for node in list(root.iter()):
        if not isinstance(node.tag, str):
            continue
        _put_in_order(node)
    return str(lxml_html.tostring(root, encoding="unicode"))


def _put_in_order(node: HtmlElement) -> None:
    if node.getparent() is not None and _is_hidden(node):
        node.drop_tree()
        return
    if node.tag in _TRANSPARENT:
        node.tag = _TRANSPARENT[node.tag]
    if node.tag == "table":
        if _is_layout(node):
            _unfold(node)
        else:
            _lift_captions(node)
            _repeat_spanned_cells(node)
            _fill_wide_cells(node)
    if node.tag == "br":
        node.tail = LINE_BREAK + (node.tail or "").lstrip("\n")
    elif node.tag not in _KEEP_BREAKS:
        node.text = _without_breaks(node.text)
    if node.getparent() is not None and node.getparent().tag not in _KEEP_BREAKS:
        node.tail = _without_breaks(node.tail)
    if node.tag in _BLOCKS and len(node) <= 1 and len(node.text_content().strip()) == 1:
        node.text = (node.text or "") + STAND_IN


def _is_hidden(node: HtmlElement) -> bool:
    return "hidden" in node.attrib or bool(_HIDDEN.search(node.get("style", "")))


def _is_layout(table: HtmlElement) -> bool:
    """A table of tables, of headings, or of a single cell holds a page, not data."""
    if table.xpath(".//table | .//h1 | .//h2 | .//h3"):
        return True
    return len(table.xpath(".//td | .//th")) == 1


def _unfold(table: HtmlElement) -> None:
    table.tag = "div"
    for node in table.xpath("./tr | ./*/tr | ./tr/* | ./*/tr/* | ./tbody | ./thead | ./tfoot"):
        node.tag = "div"
    for caption in table.xpath("./caption"):
        caption.tag = "p"


def _lift_captions(table: HtmlElement) -> None:
    for caption in table.xpath("./caption"):
        table.addprevious(caption)
        caption.tag, caption.tail = "p", None


def _repeat_spanned_cells(table: HtmlElement) -> None:
    """A cell that spans rows is put into each of them, in its column; not in a table that would
    become many times larger by it."""
    rows = table.xpath("./tr | ./thead/tr | ./tbody/tr | ./tfoot/tr")
    if sum(_height(cell) - 1 for row in rows for cell in row) > _MAX_COPIES * len(rows):
        return
    for index, row in enumerate(rows):
        for column, cell in enumerate(list(row)):
            for below in rows[index + 1 : index + _height(cell)]:
                below.insert(min(column, len(below)), _copy_of(cell))


def _fill_wide_cells(table: HtmlElement) -> None:
    """Empty cells beside one that spans columns keep those after it below their header; and a
    header of two lines becomes one, above an empty row."""
    rows = table.xpath("./tr | ./thead/tr | ./tbody/tr | ./tfoot/tr")
    widths = [_width(cell) for row in rows for cell in row]
    if sum(widths) > _MAX_COPIES * len(widths):
        return
    wide: list[dict[int, int]] = []  # how many columns a cell takes, by row and column
    for row in rows:
        wide.append({})
        column = 0
        for cell in list(row):
            width = _width(cell)
            if width > 1:
                wide[-1][column] = width
            cell.attrib.pop("colspan", None)
            for _ in range(width - 1):
                cell.addnext(cell.makeelement(cell.tag))
            column += width
    texts = [[" ".join(cell.text_content().split()) for cell in row] for row in rows]
    place = header_place(texts)
    lines = rows[place : place + 2]
    if len(rows) > place + 2 and all(cell.tag == "th" for row in lines for cell in row):
        names = joined_headers(texts[place], texts[place + 1], wide[place])
        _join_headers(lines[0], lines[1], names)


def _join_headers(upper: HtmlElement, lower: HtmlElement, names: list[str]) -> None:
    if not names:
        return
    for cell in [*upper, *lower]:
        cell.drop_tree()
    for name in names:
        for row, text in ((upper, name), (lower, "")):
            cell = row.makeelement("th")
            cell.text = text
            row.append(cell)


def _width(cell: HtmlElement) -> int:
    span = cell.get("colspan", "")
    return min(int(span), _MAX_WIDTH) if span.isdecimal() and len(span) < 6 and int(span) else 1


def _height(cell: HtmlElement) -> int:
    span = cell.get("rowspan", "")
    return int(span) if span.isdecimal() and len(span) < 6 else 1


def _copy_of(cell: HtmlElement) -> HtmlElement:
    copy = deepcopy(cell)
    copy.attrib.pop("rowspan", None)
    return copy


def _without_breaks(text: str | None) -> str | None:
    return _BREAK_IN_CJK.sub("", text) if text and "\n" in text else text
