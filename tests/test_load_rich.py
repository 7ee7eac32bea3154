"""HTML, DOCX, PPTX, XLSX, EPUB and mail: files made here, read back."""

from __future__ import annotations

import datetime as dt
import io
import time
import zipfile
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import docx
import openpyxl
import pptx
import pytest
from docx.oxml import parse_xml
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import EncryptedFileError
from rag.load import load
from rag.types import Content

pytestmark = pytest.mark.slow  # importing `unstructured` takes seconds
WORD = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def read(name: str, data: bytes) -> Content:
    content = load(Path(name), data, max_bytes=2**24)
    end = 0
    for element in content.elements:
        assert end <= element.start < element.end <= len(content.text)
        end = element.end
    return content


def html(body: str, **kwargs: str) -> Content:
    return read("page.html", body.encode(kwargs.get("encoding", "utf-8")))


def said(content: Content) -> list[tuple[str, str]]:
    return [(e.kind, content.text[e.start : e.end]) for e in content.elements]


def saved(document: Any) -> bytes:
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


# --- html ---------------------------------------------------------------------------------------


def test_headings_of_a_page_come_from_its_markup_alone() -> None:
    content = html("<title>T</title><h1>总则</h1><div>短句</div><h3>假期</h3><p>十五天。</p>")
    assert content.title == "总则"
    assert [(e.kind, e.heading) for e in content.elements] == [
        ("heading", ()), ("text", ("总则",)), ("heading", ("总则",)), ("text", ("总则", "假期"))
    ]  # fmt: skip
    assert content.text == "总则\n\n短句\n\n假期\n\n十五天。"


def test_a_page_without_h1_is_called_by_its_title() -> None:
    assert html("<title>A &amp;\n B</title><p>文字</p>").title == "A & B"


def test_nothing_a_page_shows_is_lost_and_nothing_it_hides_is_said() -> None:
    content = html(
        "<nav>导航</nav><form><p>表单里</p></form><figure><figcaption>图一</figcaption></figure>"
        "<details><summary>问</summary>答案</details><p>无</p><p hidden>藏一</p>"
        '<p style="display: none">藏二</p><script>x()</script><!-- 注 -->'
    )
    assert [text for _, text in said(content)] == ["表单里", "图一", "问", "答案", "无"]


def test_line_breaks_are_kept_where_they_are_meant() -> None:
    content = html("<p>中文\n换行</p><p>one\ntwo</p><p>甲<br>乙</p><pre>a\n  b</pre>")
    assert said(content) == [
        ("text", "中文换行"), ("text", "one two"), ("text", "甲\n乙"), ("code", "a\n  b")
    ]  # fmt: skip


def test_a_table_becomes_rows_with_its_caption_and_its_spanned_cells() -> None:
    content = html(
        "<table><caption>表一</caption><tr><th>部门</th><th></th><th>人</th></tr>"
        "<tr><td rowspan=2>研发</td><td></td><td>张<br>三</td></tr><tr><td></td><td>李四</td></tr>"
        "</table>"
    )
    assert said(content) == [
        ("text", "表一"), ("header", "部门 | 人"), ("row", "研发 | 张 三"), ("row", "研发 | 李四")
    ]  # fmt: skip
    assert content.text == "表一\n\n部门 | 人\n研发 | 张 三\n研发 | 李四"


def test_a_table_that_lays_out_a_page_is_no_table() -> None:
    content = html(
        "<table><tr><td><h2>左</h2><table><tr><td>A<td>B<tr><td>1<td>2</table><td><p>右</table>"
    )
    assert said(content) == [
        ("heading", "左"), ("header", "A | B"), ("row", "1 | 2"), ("text", "右")
    ]  # fmt: skip


@pytest.mark.parametrize("declared", ["gb2312", "GBK", "utf-8", ""])
def test_a_page_is_read_in_what_it_is_written_in_whatever_it_declares(declared: str) -> None:
    meta = f'<meta charset="{declared}">' if declared else ""
    content = html(f"{meta}<p>镕基在会议上的讲话，请各部门学习。</p>", encoding="gb18030")
    assert "镕基在会议上的讲话" in content.text


def test_a_page_with_an_xml_declaration_is_read() -> None:
    assert html(
        '<?xml version="1.0" encoding="utf-8"?><html><body><p>正文</p></body></html>'
    ).text == ("正文")


@settings(deadline=None, max_examples=60)
@given(st.text("<>/pdivtablerh1 甲\"'=&;\n", max_size=60))
def test_tag_soup_never_breaks_the_order_of_elements(soup: str) -> None:
    html(f"<p>甲乙</p>{soup}")


# --- docx ---------------------------------------------------------------------------------------


def test_a_word_file_gives_headings_by_style_lists_and_tables() -> None:
    document = docx.Document()
    document.add_heading("员工手册", 0)
    document.add_heading("第一章", 1)
    document.add_paragraph("这是一个标题")
    document.add_paragraph("-5 ℃ 以下停工", style="List Bullet")
    table = document.add_table(3, 2)
    for row, cells in enumerate([("类", "值"), ("甲", "1"), ("", "2")]):
        for column, text in enumerate(cells):
            table.cell(row, column).text = text
    table.cell(1, 0).merge(table.cell(2, 0))
    content = read("a.docx", saved(document))
    assert content.title == "员工手册"
    assert said(content) == [
        ("heading", "员工手册"), ("heading", "第一章"), ("text", "这是一个标题"),
        ("text", "-5 ℃ 以下停工"), ("header", "类 | 值"), ("row", "甲 | 1"), ("row", "甲 | 2"),
    ]  # fmt: skip
    assert content.elements[-1].heading == ("员工手册", "第一章")


def test_text_boxes_content_controls_and_insertions_are_not_lost() -> None:
    document = docx.Document()
    box = f"<w:txbxContent {WORD}><w:p><w:r><w:t>框里</w:t></w:r></w:p></w:txbxContent>"
    compatibility = 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
    for xml in (
        f"<w:sdt {WORD}><w:sdtContent><w:p><w:r><w:t>控件</w:t></w:r></w:p></w:sdtContent></w:sdt>",
        f"<w:p {WORD}><w:r><w:t>前</w:t></w:r><w:ins><w:r><w:t>插</w:t></w:r></w:ins>"
        "<w:del><w:r><w:delText>删</w:delText></w:r></w:del><w:r><w:t>后</w:t></w:r></w:p>",
        f"<w:p {WORD} {compatibility}><w:r><w:t>锚</w:t></w:r><w:r><mc:AlternateContent>"
        f"<mc:Choice Requires='wps'>{box}</mc:Choice><mc:Fallback>{box}</mc:Fallback>"
        "</mc:AlternateContent></w:r></w:p>",
    ):
        document.element.body.insert(-1, parse_xml(xml))
    content = read("a.docx", saved(document))
    assert [text for _, text in said(content)] == ["控件", "前插后", "锚", "框里"]


def test_outline_levels_make_headings_under_any_style() -> None:
    document = docx.Document()
    style = document.styles.add_style("公司样式", 1)
    style.element.get_or_add_pPr().append(parse_xml(f'<w:outlineLvl {WORD} w:val="0"/>'))
    document.add_paragraph("样式里的级别", style="公司样式")
    own = document.add_paragraph("自己的级别")
    own._p.get_or_add_pPr().append(parse_xml(f'<w:outlineLvl {WORD} w:val="1"/>'))
    document.add_paragraph("正文")
    content = read("a.docx", saved(document))
    assert content.elements[-1].heading == ("样式里的级别", "自己的级别")
    assert content.title == "样式里的级别"


def test_without_any_style_only_chapter_lines_are_headings() -> None:
    document = docx.Document()
    for text in ("第一章 总则", "适用于全体员工。", "简短的一行"):
        document.add_paragraph(text)
    content = read("手册.docx", saved(document))
    assert [kind for kind, _ in said(content)] == ["heading", "text", "text"]
    assert content.title == "手册"


# --- pptx ---------------------------------------------------------------------------------------


def test_a_slide_is_a_page_under_its_title_and_its_notes_come_last() -> None:
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text = "入职\v指南"
    slide.placeholders[1].text = "带身份证\n带照片"
    slide.notes_slide.notes_text_frame.text = "讲慢一点"
    other = deck.slides.add_slide(deck.slide_layouts[6])
    other.shapes.add_textbox(0, 0, 99, 99).text_frame.text = "没有标题"
    table = other.shapes.add_table(2, 2, 0, 200, 99, 99).table
    for row in range(2):
        for column in range(2):
            table.cell(row, column).text = f"{row}{column}"
    content = read("a.pptx", saved(deck))
    assert content.title == "入职 指南"
    assert [(e.page, e.heading, content.text[e.start : e.end]) for e in content.elements] == [
        (1, (), "入职 指南"),
        (1, ("入职 指南",), "带身份证"),
        (1, ("入职 指南",), "带照片"),
        (1, ("入职 指南",), "讲慢一点"),
        (2, (), "没有标题"),
        (2, (), "00 | 01"),
        (2, (), "10 | 11"),
    ]  # fmt: skip


# --- xlsx ---------------------------------------------------------------------------------------


def test_every_row_of_every_sheet_is_a_line_as_excel_shows_it() -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "工资"
    sheet.append(["2026 年工资表"])
    sheet.append(["部门", "姓名", "入职", "工资", "比例", "备注"])
    sheet.append(["研发", "张三", dt.date(2024, 1, 5), 12345.5, 0.125, "多\n行"])
    sheet.append([None, "李四", dt.datetime(2024, 1, 5, 9, 30), -1234, 1 / 3])
    sheet.merge_cells("A3:A4")
    sheet["D3"].number_format = "#,##0.00"
    sheet["D4"].number_format = '"¥"#,##0;[Red]-"¥"#,##0'
    sheet["E3"].number_format = "0.0%"
    sheet.append([])
    sheet.append(["注：税前"])
    book.create_sheet("空")
    other = book.create_sheet("其他")
    other["C3"], other["D3"], other["C4"], other["D4"] = "编号", "有效", 12345678901234, True
    content = read("a.xlsx", saved(book))
    assert said(content) == [
        ("heading", "工资"),
        ("text", "2026 年工资表"),
        ("header", "部门 | 姓名 | 入职 | 工资 | 比例 | 备注"),
        ("row", "研发 | 张三 | 2024-01-05 | 12,345.50 | 12.5% | 多 行"),
        ("row", "研发 | 李四 | 2024-01-05 09:30 | -¥1,234 | 0.333333333333333"),
        ("text", "注：税前"),
        ("heading", "其他"),
        ("header", "编号 | 有效"),
        ("row", "12345678901234 | TRUE"),
    ]
    assert {e.sheet for e in content.elements} == {"工资", "其他"}
    assert content.elements[-1].heading == ("其他",)


def test_a_sheet_with_two_cells_far_apart_is_two_short_rows() -> None:
    book = openpyxl.Workbook()
    book.active["A1"], book.active["XFD5000"] = "首", "尾"
    assert said(read("a.xlsx", saved(book)))[1:] == [("header", "首"), ("row", " | 尾")]


# --- epub ---------------------------------------------------------------------------------------

PACKAGE = """<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">
<metadata><dc:title>书名</dc:title></metadata><manifest>
<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
<item id="b" href="text/%E4%BA%8C.xhtml" media-type="application/xhtml+xml"/>
<item id="a" href="a.xhtml" media-type="application/xhtml+xml"/></manifest>
<spine><itemref idref="nav"/><itemref idref="a"/><itemref idref="b"/><itemref idref="gone"/></spine>
</package>"""
CONTAINER = """<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>
<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>"""


def book(**more: str) -> bytes:
    page = '<html xmlns="http://www.w3.org/1999/xhtml"><body>{}</body></html>'
    files = {
        "META-INF/container.xml": CONTAINER,
        "OEBPS/book.opf": PACKAGE,
        "OEBPS/nav.xhtml": page.format("<p>目录</p>"),
        "OEBPS/a.xhtml": page.format("<h1>第一章</h1><p>甲。</p>"),
        "OEBPS/text/二.xhtml": page.format("<h2>第二章</h2><p>乙。</p>"),
        **more,
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return file.getvalue()


def test_the_chapters_of_a_book_come_in_reading_order_under_their_headings() -> None:
    content = read("a.epub", book())
    assert content.title == "书名"
    assert content.text == "第一章\n\n甲。\n\n第二章\n\n乙。"
    assert [e.heading for e in content.elements] == [(), ("第一章",), (), ("第二章",)]


def test_a_book_with_copy_protection_is_said_to_be_locked() -> None:
    rights = '<encryption><EncryptionMethod Algorithm="urn:locked"/></encryption>'
    with pytest.raises(EncryptedFileError, match="copy protection"):
        read("a.epub", book(**{"META-INF/encryption.xml": rights}))


def test_an_entity_that_names_a_file_of_this_machine_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush")
    entity = f'<!DOCTYPE x [<!ENTITY e SYSTEM "{(tmp_path / "secret").as_uri()}">]>'
    package = entity + PACKAGE.replace("书名", "&e;名")
    content = read("a.epub", book(**{"OEBPS/book.opf": package}))
    assert "hush" not in content.title + content.text


# --- mail ---------------------------------------------------------------------------------------


def test_a_mail_gives_subject_people_plain_body_and_names_of_attachments() -> None:
    message = EmailMessage()
    message["Subject"], message["From"] = "搬迁通知", "行政部 <admin@example.com>"
    message.set_content("各位同事：\n\n周六搬迁。")
    message.add_alternative("<p>网页</p>", subtype="html")
    message.add_attachment(b"x", maintype="application", subtype="pdf", filename="座位表.pdf")
    content = read("a.eml", message.as_bytes())
    assert content.title == "搬迁通知"
    assert said(content) == [
        ("heading", "搬迁通知"), ("text", "From: 行政部 <admin@example.com>"),
        ("text", "各位同事："), ("text", "周六搬迁。"), ("text", "Attachments: 座位表.pdf"),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["plain", "html"])
def test_a_mail_that_calls_itself_gb2312_may_use_more(kind: str) -> None:
    head = f"Subject: a\r\nContent-Type: text/{kind}; charset=gb2312\r\n\r\n".encode()
    assert "镕基" in read("a.eml", head + "<p>镕基</p>".encode("gbk")).text


# --- long -----------------------------------------------------------------------------------------

LONG = {
    "words": "gateway keeps its data " * 45_000,
    "sentences": "The gateway keeps its data. It sends them later! " * 21_000,
    "full stops": ". " * 500_000,
    "capitals": "Aa " * 330_000,
    "Chinese": "本制度适用于全体员工。" * 100_000,
}


def slide_of(text: str) -> bytes:
    file = io.BytesIO()
    deck = pptx.Presentation()
    deck.slides.add_slide(deck.slide_layouts[1]).placeholders[1].text = text
    deck.save(file)
    return file.getvalue()


def word_of(text: str) -> bytes:
    file = io.BytesIO()
    document = docx.Document()
    document.add_paragraph(text)
    document.save(file)
    return file.getvalue()


@pytest.mark.parametrize("what", list(LONG))
@pytest.mark.parametrize("kind", ["html", "docx", "pptx"])
def test_a_paragraph_of_a_megabyte_is_read_in_a_moment(kind: str, what: str) -> None:
    text = LONG[what].strip()
    makers = {"html": lambda: f"<p>{text}".encode(), "docx": lambda: word_of(text)}
    data = makers.get(kind, lambda: slide_of(text))()
    read("first.html", b"<p>x</p>")  # the libraries
    started = time.monotonic()
    assert read(f"long.{kind}", data).text == text
    assert time.monotonic() - started < 2


def test_twenty_thousand_lines_in_one_run_of_a_word_file_are_read() -> None:
    lines = [f"line {number}" for number in range(20_000)]
    started = time.monotonic()
    assert read("log.docx", word_of("\n".join(lines))).text.split("\n") == lines
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("kind", ["html", "docx", "pptx"])
def test_no_text_is_cut_into_sentences_to_tell_what_it_is(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unstructured.nlp import tokenize

    def cut(text: str) -> None:
        pytest.fail(f"{text!r} went through spaCy")

    monkeypatch.setattr(tokenize, "_process", cut)
    text = "The gateway keeps its data. It sends them later."
    makers = {"html": lambda: f"<p>{text}".encode(), "docx": lambda: word_of(text)}
    assert read(f"a.{kind}", makers.get(kind, lambda: slide_of(text))()).text == text
