"""Files that are broken, mislabelled or made to do harm: read, or refused for a stated reason."""

from __future__ import annotations

import io
import os
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import docx
import openpyxl
import pptx
import pytest
from PIL import Image

from benchmarks.fuzz import GRACE, GROWTH, LIMITS, fuzz, samples, variant
from rag.engine import Engine
from rag.errors import (
    DamagedFileError,
    EmptyFileError,
    EncryptedFileError,
    FileTooLargeError,
    LoadError,
    UnsupportedTypeError,
)
from rag.files import FileSource, Upload, plan_files
from rag.ingest import Plan
from rag.load import load
from rag.load.limits import Limits
from tests.conftest import KNOWLEDGE

SLOW = pytest.mark.slow
MAX = 100_000_000
PDF = (KNOWLEDGE / "product/reed-g2-user-manual.pdf").read_bytes()
LAUGHS = (
    '<!DOCTYPE l [<!ENTITY l0 "lol">'
    + "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    + "]>"
)
OUTSIDE = '<!DOCTYPE x [<!ENTITY l9 SYSTEM "file:///etc/passwd">]>'
DEEP = 100_000


def read(name: str, data: bytes, limits: Limits = Limits()) -> str:
    return load(Path(name), data, max_bytes=MAX, limits=limits).text


def saved(document: object) -> bytes:
    file = io.BytesIO()
    document.save(file)  # type: ignore[attr-defined]
    return file.getvalue()


def word_file() -> bytes:
    document = docx.Document()
    document.add_paragraph("正文")
    return saved(document)


def spreadsheet_file() -> bytes:
    book = openpyxl.Workbook()
    book.active.append(["项目", "价格"])  # type: ignore[union-attr]
    book.active.append(["正文", 2])  # type: ignore[union-attr]
    return saved(book)


def slides_file() -> bytes:
    deck = pptx.Presentation()
    deck.slides.add_slide(deck.slide_layouts[1]).shapes.title.text = "正文"
    return saved(deck)


def book_file(head: str = "") -> bytes:
    return zipped(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": '<container><rootfiles><rootfile full-path="p.opf"/>'
            "</rootfiles></container>",
            "p.opf": f"{head}<package><manifest><item id='a' href='a.xhtml'"
            " media-type='application/xhtml+xml'/></manifest><spine><itemref idref='a'/></spine>"
            "</package>",
            "a.xhtml": f"{head}<html><body><p>正文{'&l9;' if head else ''}</p></body></html>",
        }
    )


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "docx": word_file, "xlsx": spreadsheet_file, "pptx": slides_file, "epub": book_file,
}  # fmt: skip
TEXT_OF = {
    "docx": "word/document.xml", "xlsx": "xl/sharedStrings.xml",
    "pptx": "ppt/slides/slide1.xml", "epub": "a.xhtml",
}  # fmt: skip


def zipped(files: dict[str, str | bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def rewritten(data: bytes, entry: str, change: Callable[[bytes], bytes]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files: dict[str, str | bytes] = {n: archive.read(n) for n in archive.namelist()}
    return zipped(files | {entry: change(files.get(entry, b""))})  # type: ignore[arg-type]


def with_entities(head: str) -> Callable[[bytes], bytes]:
    """The same XML, which uses the entity `l9` that `head` declares."""

    def change(xml: bytes) -> bytes:
        declaration, mark, rest = xml.decode().rpartition("?>")
        return (declaration + mark + head + rest.replace("正文", "正文&l9;")).encode()

    return change


# --- the type is that of the bytes ----------------------------------------------------------------


@SLOW
@pytest.mark.parametrize("name", ["a.txt", "a.pdf", "a.csv", "a.xlsx", "a.html", "a.eml"])
@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_office_file_is_read_whatever_it_is_called(name: str, kind: str) -> None:
    content = load(Path(name), ARCHIVES[kind](), max_bytes=MAX)
    assert content.type == kind
    assert "正文" in content.text


@pytest.mark.parametrize("name", ["a.docx", "a.txt", "a.epub", "a.md", "a.png"])
def test_a_pdf_is_read_whatever_it_is_called(name: str) -> None:
    content = load(Path(name), PDF, max_bytes=MAX)
    assert (content.type, content.title) == ("pdf", load(Path("a.pdf"), PDF, max_bytes=MAX).title)


@SLOW
@pytest.mark.parametrize("name", ["a.pdf", "a.docx", "a.xlsx", "a.png"])
@pytest.mark.parametrize("start", ["", "\ufeff\n ", "<!-- made by hand -->\n<!---->"])
def test_a_page_saved_as_something_else_is_read_as_a_page(name: str, start: str) -> None:
    page = f"{start}<!DOCTYPE html><html><body><p>正文</p></body></html>".encode()
    assert load(Path(name), page, max_bytes=MAX).type == "html"


def test_many_comments_before_a_page_take_no_time() -> None:
    with pytest.raises(DamagedFileError, match="not a pdf file at all"):
        read("a.pdf", b"<!---->" * 10**6)


@pytest.mark.parametrize("name", ["a.txt", "a.md"])
def test_a_text_that_tells_of_html_stays_a_text(name: str) -> None:
    source = "<html> is the root of a page."
    assert read(name, source.encode()) == source


def test_a_picture_is_a_picture_whatever_it_is_called() -> None:
    no_ocr = Limits(ocr=False)
    for name in ("a.png", "a.pdf", "a.txt"):
        with pytest.raises(LoadError) as caught:
            read(name, saved_picture("PNG"), no_ocr)
        assert caught.value.code == "no_text"


def saved_picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, kind)
    return file.getvalue()


# --- broken ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ARCHIVES)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99])
def test_a_truncated_archive_is_damaged(kind: str, share: float) -> None:
    data = ARCHIVES[kind]()
    with pytest.raises(DamagedFileError, match=rf"a\.{kind} is damaged"):
        read(f"a.{kind}", data[: max(4, int(share * len(data)))])


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_a_truncated_pdf_is_damaged(share: float) -> None:
    with pytest.raises(DamagedFileError, match=r"a\.pdf is damaged"):
        read("a.pdf", PDF[: int(share * len(PDF))])


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_behind_a_password_is_locked(kind: str) -> None:
    data = bytearray(ARCHIVES[kind]())
    central = data.rindex(b"PK\x01\x02")
    data[central + 8] |= 1  # the flag of its last entry
    with pytest.raises(EncryptedFileError, match="password"):
        read(f"a.{kind}", bytes(data))


@pytest.mark.parametrize("kind", ["txt", "md", "csv", "json"])
def test_a_file_of_zeros_as_a_power_cut_leaves_it_is_damaged(kind: str) -> None:
    with pytest.raises(DamagedFileError, match="binary data"):
        read(f"a.{kind}", bytes(4096))


def test_what_cannot_be_stored_is_replaced_one_for_one() -> None:
    words = "知识库里的文字应当完整保存下来。" * 3
    assert read("a.txt", f"{words}\0{words}".encode()) == f"{words}\ufffd{words}"
    half = words.encode() + b"\xed\xa0\x80" + words.encode()
    assert read("a.txt", half) == f"{words}\ufffd{words}"
    assert read("a.txt", b"\xed\xa0\xbd\xed\xb8\x80 ok") == "\U0001f600 ok"


@SLOW
def test_half_surrogates_of_a_page_can_be_stored() -> None:
    text = read("a.html", b"<p>before &#xd800; and &#0; after</p>")
    text.encode()
    assert text.startswith("before")
    assert text.endswith("after")


# --- large ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_small_archive_that_unpacks_to_very_much_is_refused(kind: str) -> None:
    bomb = rewritten(ARCHIVES[kind](), TEXT_OF[kind], lambda _: bytes(101_000_000))
    assert len(bomb) < 200_000
    with pytest.raises(FileTooLargeError, match="times its size"):
        read(f"a.{kind}", bomb)
    with pytest.raises(FileTooLargeError, match="unpacks to more than 48 MB"):
        read(f"a.{kind}", bomb, Limits(unpacked=48 * 2**20))


def test_an_archive_that_lies_about_its_size_is_not_unpacked_further() -> None:
    data = bytearray(rewritten(word_file(), TEXT_OF["docx"], lambda _: bytes(50_000_000)))
    at = data.index(b"PK\x01\x02", data.rindex(b"word/document.xml") - 60)
    data[at + 24 : at + 28] = (100).to_bytes(4, "little")
    with pytest.raises(DamagedFileError):
        read("a.docx", bytes(data))


def test_an_archive_of_very_many_files_is_refused() -> None:
    many = zipped({f"word/{number}": b"" for number in range(101)})
    with pytest.raises(FileTooLargeError, match="101 files"):
        read("a.docx", many, Limits(entries=100))


def test_more_text_than_allowed_is_refused() -> None:
    with pytest.raises(FileTooLargeError, match=r"more than 0\.001 MB of text"):
        read("a.txt", "字".encode() * 334, Limits(text=1000))
    assert read("a.txt", "字".encode() * 333, Limits(text=1000)) == "字" * 333


def test_more_rows_than_allowed_are_refused() -> None:
    with pytest.raises(FileTooLargeError, match="more than 10 rows"):
        read("a.csv", b"a,b\n" * 11, Limits(elements=10))


@pytest.mark.parametrize("kind", ["txt", "md", "csv", "json", "eml"])
def test_a_line_of_ten_megabytes_is_read(kind: str) -> None:
    words = "word " * 2_000_000
    source = {"json": f'"{words}"', "eml": f"Subject: x\r\n\r\n{words}"}.get(kind, words)
    assert words.strip() in read(f"a.{kind}", source.encode())


@pytest.mark.parametrize("header", ["To", "Subject", "Content-Type", "Content-Transfer-Encoding"])
@pytest.mark.parametrize("value", ["a@b.example, ", "word ", "=?utf-8?q?a?= ", "a=b; ", "("])
def test_a_header_of_a_megabyte_does_not_hold_up_the_mail(header: str, value: str) -> None:
    mail = f"From: me@b.example\r\n{header}: {value * (1_000_000 // len(value))}\r\n\r\nwords"
    started = time.monotonic()
    with suppress(DamagedFileError):
        assert "me@b.example" in read("a.eml", mail.encode())
    assert time.monotonic() - started < 10


def test_a_table_of_a_hundred_thousand_columns_is_read() -> None:
    row = ",".join(map(str, range(DEEP)))
    assert read("a.csv", f"{row}\n{row}\n".encode()).count("99999") == 2


@SLOW
def test_a_page_with_ten_megabytes_in_one_paragraph_is_refused_and_not_called_empty() -> None:
    with pytest.raises(DamagedFileError, match="9 MB of text in one paragraph"):
        read("a.html", b"<p>" + b"word " * 2_100_000 + b"</p>")


# --- deep -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.json", b"[" * DEEP + b"]" * DEEP), ("a.json", b'{"a":' * DEEP + b"1" + b"}" * DEEP),
     ("a.jsonl", b"[" * DEEP + b"]" * DEEP),
     pytest.param("a.html", b"<p>a</p>" + b"<div>" * DEEP + b"b", marks=SLOW)],
)  # fmt: skip
def test_what_is_nested_beyond_measure_is_refused(name: str, data: bytes) -> None:
    with pytest.raises(DamagedFileError, match="nested too deeply"):
        read(name, data)


@SLOW
@pytest.mark.parametrize("depth", [100, 149, 151, 256, 1500])
def test_a_deep_page_is_read_to_its_last_word(depth: int) -> None:
    inner = "".join(f"<div><p>word{number}</p>" for number in range(depth))
    text = read("a.html", f"<p>first</p>{inner}{'</div>' * depth}<p>last</p>".encode())
    assert text.split() == ["first", *(f"word{number}" for number in range(depth)), "last"]


@pytest.mark.parametrize("source", [b">" * DEEP + b" x", b"- " * DEEP + b"x", b"[" * DEEP])
def test_deep_markdown_is_kept_as_it_is(source: bytes) -> None:
    assert read("a.md", source) == source.decode()


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_in_an_archive_is_not_opened(kind: str) -> None:
    with pytest.raises(UnsupportedTypeError, match="a zip file of something else"):
        read(f"a.{kind}", zipped({"inner.zip": ARCHIVES[kind]()}))


# --- made to do harm ------------------------------------------------------------------------------


@SLOW
@pytest.mark.parametrize("head", [LAUGHS, OUTSIDE], ids=["laughs", "outside"])
@pytest.mark.parametrize("kind", ARCHIVES)
def test_entities_neither_grow_nor_reach_out(kind: str, head: str) -> None:
    data = rewritten(ARCHIVES[kind](), TEXT_OF[kind], with_entities(head))
    try:
        text = read(f"a.{kind}", data)
    except DamagedFileError as error:
        text = error.message
    assert "root:" not in text
    assert text.count("lol") < 20
    assert len(text) < 2000


@SLOW
def test_a_page_shows_no_script_and_no_style() -> None:
    page = """<html><head><script>steal()</script><style>p { color: red }</style></head>
    <body onload="steal()"><p onclick="steal()">正文内容</p><script>steal()</script>
    <svg><script>steal()</script></svg><a href="javascript:steal()">link text</a></body></html>"""
    text = read("a.html", page.encode())
    assert "正文内容" in text
    assert "link text" in text
    assert "steal" not in text
    assert "color" not in text


# --- in a folder ----------------------------------------------------------------------------------


def plan(root: Path, indexes: Path, **options: bool) -> Plan:
    return plan_files([root], indexes=indexes, max_bytes=MAX, known=None, **options)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.md").write_text("secret")
    return tmp_path / "outside"


def test_a_link_out_of_the_folder_is_reported_and_not_followed(
    folder: Callable[..., Path], outside: Path, tmp_path: Path
) -> None:
    root = folder(**{"a.md": "a"})
    (root / "b.md").symlink_to(outside / "secret.md")
    (root / "c.md").symlink_to(root / "../outside/secret.md")
    (root / "d.md").symlink_to("/dev/zero")
    (root / "more").symlink_to(outside)
    found = plan(root, tmp_path / "indexes")
    assert [source.name for source in found.sources] == ["a.md"]
    assert [(f.name, f.code) for f in found.skipped] == [
        ("b.md", "link"), ("c.md", "link"), ("d.md", "link"), ("more", "link"),
    ]  # fmt: skip
    assert "out of the folder" in found.skipped[0].reason
    assert "link to a folder" in found.skipped[3].reason


def test_a_link_is_followed_within_the_folder_and_beyond_it_if_wanted(
    folder: Callable[..., Path], outside: Path, tmp_path: Path
) -> None:
    root = folder(**{"a.md": "a"})
    (root / "b.md").symlink_to("a.md")
    (root / "c.md").symlink_to(outside / "secret.md")
    (root / "d.md").symlink_to("/dev/zero")
    assert [s.name for s in plan(root, tmp_path).sources] == ["a.md", "b.md"]
    *_, c, d = plan(root, tmp_path, follow_links=True).sources
    assert isinstance(c, FileSource)
    assert c.read() == b"secret"
    with pytest.raises(LoadError, match=r"d\.md is not a file"):
        d.read()  # type: ignore[union-attr]


def test_links_in_a_circle_end_nowhere(engine: Engine, folder: Callable[..., Path]) -> None:
    root = folder(**{"a.md": "a", "sub/b.md": "b"})
    (root / "sub/round").symlink_to(root)
    (root / "self.md").symlink_to(root / "self.md")
    report = engine.ingest([root])
    assert report.added == ["a.md", "sub/b.md"]
    assert [f.name for f in report.skipped] == ["sub/round"]
    assert [(f.name, f.code) for f in report.failed] == [("self.md", "load")]


def test_a_link_that_is_named_itself_is_followed(
    engine: Engine, outside: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(outside)
    (tmp_path / "link.md").symlink_to(outside / "secret.md")
    assert engine.ingest([tmp_path / "link"]).added == ["secret.md"]
    assert engine.ingest([tmp_path / "link.md"]).unchanged == ["secret.md"]


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_never_waited_for(kind: str, tmp_path: Path) -> None:
    path = Path("/dev/zero")
    if kind == "pipe":
        path = tmp_path / "a.md"
        os.mkfifo(path)
    with pytest.raises(LoadError, match=r"a\.md is not a file"):
        FileSource(path, "file:a.md", "a.md", MAX).read()


def test_a_file_that_grows_while_it_is_read_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.md"
    path.write_bytes(b"x")
    before = path.stat()
    path.write_bytes(b"x" * 11)
    monkeypatch.setattr(os, "fstat", lambda _: before)
    with pytest.raises(FileTooLargeError, match=r"a\.md"):
        FileSource(path, "file:a.md", "a.md", 10).read()


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    with path.open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(FileTooLargeError, match=r"1000000\.0 MB"):
        FileSource(path, "file:a.md", "a.md", MAX).read()


def test_a_file_one_may_not_read_is_reported_and_the_others_are_read(
    engine: Engine, folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(**{"a.md": "a", "closed.md": "b", "gone.md": "c", "io.md": "d"})
    errors = {
        "closed.md": PermissionError(13, "Permission denied"),
        "gone.md": FileNotFoundError(2, "No such file or directory"),
        "io.md": OSError(5, "Input/output error"),
    }
    opens = os.open

    def refusing(path: object, flags: int, *more: int, **options: int) -> int:
        error = errors.get(Path(os.fsdecode(path)).name)  # type: ignore[arg-type]
        if error is not None:
            raise error
        return opens(path, flags, *more, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(os, "open", refusing)
    report = engine.ingest([root])
    assert report.added == ["a.md"]
    assert [(f.name, f.code) for f in report.failed] == [(name, "load") for name in errors]
    for failure, error in zip(report.failed, errors.values(), strict=True):
        assert str(error.strerror) in failure.reason


def test_an_empty_file_is_reported(engine: Engine, folder: Callable[..., Path]) -> None:
    report = engine.ingest([folder(**{"a.md": "", "b.md": "b"})])
    assert (report.added, [f.code for f in report.failed]) == (["b.md"], ["empty_file"])


def test_a_name_that_is_no_utf8_can_be_told_for_every_outcome(
    engine: Engine, folder: Callable[..., Path]
) -> None:
    root = folder(**{"a.md": "a"})
    for ending, data in ((b".md", b"x"), (b".txt", b""), (b".exe", b"x"), (b".\xff", b"x")):
        Path(os.fsdecode(os.fsencode(root) + b"/\xff\xfe" + ending)).write_bytes(data)
    report = engine.ingest([root])
    told = [*report.added, *(part for f in (*report.failed, *report.skipped)
                             for part in (f.name, f.reason, f.hint))]  # fmt: skip
    for text in told:
        text.encode()
    assert (len(report.added), len(report.failed), len(report.skipped)) == (2, 1, 2)


def test_an_upload_of_any_name_is_stored(engine: Engine) -> None:
    names = ["a\0b.md", "half \ud800.md", "../../etc/x.md", "C:\\data\\y.md", "文件.md"]
    report = engine.ingest_uploads([Upload(name, 5, lambda: b"words") for name in names])
    assert report.failed == []
    assert sorted(report.added) == sorted(
        ["a\ufffdb.md", "half \ufffd.md", "x.md", "y.md", "文件.md"]
    )


def test_a_page_without_words_is_empty() -> None:
    with pytest.raises(EmptyFileError):
        read("a.md", b"\n\n")


# --- at random ------------------------------------------------------------------------------------


@SLOW
@pytest.mark.timeout(900)
def test_five_hundred_damaged_files_neither_end_nor_hold_up_the_ingest(tmp_path: Path) -> None:
    outcome = fuzz(500, tmp_path, seed=2, base=250)
    assert len(set(outcome.told)) == len(outcome.told) == 500
    assert len(outcome.report.added) > 100
    assert all(f.reason and f.hint for f in outcome.report.failed)
    assert outcome.seconds < LIMITS.seconds + GRACE
    assert outcome.memory <= LIMITS.memory
    assert outcome.growth < GROWTH


def test_a_variant_is_the_same_every_time() -> None:
    of = samples()
    assert variant(7, 1, of) == variant(7, 1, of) != variant(8, 1, of)
