"""PDF: files written here byte by byte, read back."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import pytest
from PIL import Image

from rag.errors import DamagedFileError, EmptyFileError, EncryptedFileError
from rag.load import load
from rag.load.limits import Limits
from rag.types import Content

Line = tuple[float, float, float, str]  # x, y from the bottom, size, text
LATIN = "/Font << /F << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >>"
CHINESE = (
    "/Font << /F << /Type /Font /Subtype /Type0 /BaseFont /STSong-Light /Encoding /UniGB-UCS2-H "
    "/DescendantFonts [<< /Type /Font /Subtype /CIDFontType0 /BaseFont /STSong-Light "
    "/CIDSystemInfo << /Registry (Adobe) /Ordering (GB1) /Supplement 4 >> /DW 1000 "
    "/FontDescriptor << /Type /FontDescriptor /FontName /STSong-Light /Flags 4 /ItalicAngle 0 "
    "/FontBBox [-25 -254 1000 880] /Ascent 880 /Descent -120 /CapHeight 880 /StemV 93 >> >>] >> >>"
)


def pdf(
    pages: Sequence[Sequence[Line]],
    font: str = LATIN,
    *,
    title: str = "",
    trailer: str = "",
    drawn: Sequence[str] = (),
    extra: str = "",
    wrap: str = "%s",
) -> bytes:
    """`drawn` goes below the lines of each page, `wrap` round both, `extra` into each page."""

    def shown(text: str) -> str:
        return f"<{text.encode('utf-16-be').hex()}>" if font == CHINESE else f"({text})"

    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    for page, below in zip_longest(pages, drawn, fillvalue=""):
        lines = [f"BT /F {s} Tf {x} {y} Td {shown(t)} Tj ET" for x, y, s, t in page]
        stream = wrap % "\n".join([below, *lines])
        number = len(objects) + 1
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {number + 1} 0 R "
            f"/Resources << {font} >> {extra} >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    kids = " ".join(f"{3 + 2 * i} 0 R" for i in range(len(pages)))
    objects[1] = f"<< /Type /Pages /Count {len(pages)} /Kids [{kids}] >>"
    objects.append(f"<< /Title ({title}) >>")
    out = "%PDF-1.7\n"
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    out += f"trailer << /Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R {trailer} >>"
    return f"{out}\nstartxref\n{out.index('xref')}\n%%EOF".encode("latin-1")


def read(data: bytes, name: str = "报告.pdf") -> Content:
    return load(Path(name), data, max_bytes=2**24, limits=Limits(ocr=False))


def said(content: Content) -> list[tuple[str, str]]:
    return [(e.kind, content.text[e.start : e.end]) for e in content.elements]


def lines(
    texts: Sequence[str], *, size: float = 12, top: float = 700, left: float = 72
) -> list[Line]:
    return [(left, top - 1.5 * size * i, size, text) for i, text in enumerate(texts)]


def test_chinese_lines_are_joined_without_a_space_and_paragraphs_kept_apart() -> None:
    first = lines(["年休假天数按照员工在本公司的服务年限计算具体", "标准见附表。"])
    second = lines(
        ["病假须提供医院证明，证明应当在返岗之后的三个", "工作日内交给人力资源部。"], top=620
    )
    content = read(pdf([first + second], CHINESE))
    assert said(content) == [
        ("text", "年休假天数按照员工在本公司的服务年限计算具体标准见附表。"),
        ("text", "病假须提供医院证明，证明应当在返岗之后的三个工作日内交给人力资源部。"),
    ]
    assert content.text.count("\n\n") == 1


def test_english_lines_are_joined_with_a_space_and_hyphens_mended() -> None:
    text = ["The gateway keeps measurements for up to seventy-two hours and sends them as com-",
            "pressed batches later, oldest first, when the connection comes back again after",
            "interruptions."]  # fmt: skip
    content = read(pdf([lines(text, size=11)]))
    assert said(content) == [
        ("text", "The gateway keeps measurements for up to seventy-two hours and sends them as "
         "compressed batches later, oldest first, when the connection comes back again after "
         "interruptions.")
    ]  # fmt: skip


def test_list_items_and_short_lines_stay_apart() -> None:
    texts = ["Bring your passport.", "Name: Zhang", "- one", "- two"]
    texts.append("This line is as long as any line of this page is ever going to be.")
    assert [text for _, text in said(read(pdf([lines(texts)])))] == texts


def test_larger_type_makes_headings_by_rank_and_pages_are_counted() -> None:
    body = ["The body of this document is set in eleven points and goes on for some time here."] * 3
    pages = [
        [(72, 760, 22, "Travel Policy"), (72, 720, 15, "Scope"), *lines(body, size=11)],
        [(72, 760, 15, "Hotels"), *lines(body, size=11)],
    ]
    content = read(pdf(pages))
    headings = [(e.page, e.heading, content.text[e.start : e.end])
                for e in content.elements if e.kind == "heading"]  # fmt: skip
    assert headings == [
        (1, (), "Travel Policy"),
        (1, ("Travel Policy",), "Scope"),
        (2, ("Travel Policy",), "Hotels"),
    ]
    assert {e.page for e in content.elements} == {1, 2}


def test_headings_of_one_size_are_ranked_by_their_numbers() -> None:
    body = ["The body of this document is set in eleven points and goes on for some time here."] * 9
    page = [(72, 760, 15, "3 Installation"), (72, 730, 15, "3.1 Mounting"), *lines(body, size=11)]
    assert read(pdf([page])).elements[-1].heading == ("3 Installation", "3.1 Mounting")


def test_large_type_that_is_most_of_the_text_makes_no_headings() -> None:
    page = [
        (72, 700, 20, "Everything on this page"),
        (72, 660, 20, "is large"),
        (72, 600, 9, "small"),
    ]
    assert {kind for kind, _ in said(read(pdf([page])))} == {"text"}


@pytest.mark.parametrize(
    ("title", "expected"),
    [("Travel Policy", "Travel Policy"), ("", "报告"), ("Microsoft Word - a.doc", "报告"),
     ("untitled", "报告"), ("report_final.docx", "报告")],
)  # fmt: skip
def test_a_title_is_taken_from_the_metadata_only_if_a_person_wrote_it(
    title: str, expected: str
) -> None:
    assert read(pdf([[(72, 700, 12, "Words")]], title=title)).title == expected


def test_a_scan_is_said_to_be_one_with_its_pages() -> None:
    file = io.BytesIO()
    picture = Image.new("RGB", (60, 80), "white")
    picture.paste("black", (10, 10, 50, 20))
    picture.save(file, "PDF", save_all=True, append_images=[picture, picture])
    with pytest.raises(EmptyFileError, match=r"No text found on the 3 pages.*probably scanned"):
        read(file.getvalue())


def test_blank_pages_are_not_said_to_be_scanned() -> None:
    with pytest.raises(
        EmptyFileError, match=r"No text found on the only page of 报告\.pdf\."
    ) as told:
        read(pdf([[]]))
    assert "OCR" not in str(told.value)


def test_a_password_is_said_to_be_needed() -> None:
    locked = "/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <{0}> /U <{0}> >> /ID [<00> <00>]"
    with pytest.raises(EncryptedFileError, match="password"):
        read(pdf([[(72, 700, 12, "secret")]], trailer=locked.format("41" * 32)))


def test_a_pdf_that_is_cut_off_is_damaged() -> None:
    with pytest.raises(DamagedFileError, match="damaged"):
        read(b"%PDF-1.7\n1 0 obj\n<< /Type")
