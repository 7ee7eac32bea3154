"""Pages that are pictures: which are, what is read of them, and what is said where it is not."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from PIL.Image import Image as Picture

from rag import ocr
from rag.errors import DamagedFileError, EmptyFileError, UnsupportedTypeError
from rag.files import plan_files
from rag.ingest import Ingest, Report
from rag.load import lacks, load, pdf, picture, scans
from rag.load.build import Parsed
from rag.load.limits import Limits
from rag.load.scans import Scans
from rag.ocr import Ocr, ReadLine
from rag.split import Splitter
from rag.stores.embedded import EmbeddedStore
from rag.types import Content
from tests.fakes import FakeEmbedder
from tests.test_load_pdf import LATIN
from tests.test_load_pdf import pdf as written

FONT = Path("/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc")
LINES = ("第三章请假制度", "员工每年享有十五天带薪年假。", "病假需要提供医院证明。")
WITHOUT = Limits(ocr=False)


class FakeOcr:
    """Says a fixed text of every page, and keeps the pages it was shown."""

    def __init__(self, *lines: ReadLine) -> None:
        self.found = lines or (ReadLine("读到的字", 100, 100, 500, 140),)
        self.shown: list[Picture] = []

    def lines(self, picture: Picture) -> tuple[tuple[ReadLine, ...], tuple[int, int]]:
        self.shown.append(picture)
        return self.found, picture.size


def scan(*lines: str, size: tuple[int, int] = (1240, 900)) -> Picture:
    page = Pillow.new("L", size, 250)
    letters = ImageFont.truetype(FONT, 40) if FONT.exists() else ImageFont.load_default(size=40)
    for number, line in enumerate(lines or ("text",)):
        ImageDraw.Draw(page).text((120, 120 + 80 * number), line, fill=20, font=letters)
    return page


def saved(kind: str, *pages: Picture) -> bytes:
    file = io.BytesIO()
    more = {"save_all": True, "append_images": pages[1:]} if len(pages) > 1 else {}
    pages[0].save(file, kind, **more)  # type: ignore[arg-type]
    return file.getvalue()


def with_fake(
    read: Callable[[bytes, str, Scans], Parsed], data: bytes, fake: FakeOcr, **options: float
) -> tuple[Parsed, Scans]:
    pages = Scans(lambda: fake, **options)
    return read(data, "a.pdf", pages), pages


def said(parsed: Parsed | Content) -> list[tuple[int | None, str]]:
    return [(e.page, parsed.text[e.start : e.end]) for e in parsed.elements]


# --- which pages --------------------------------------------------------------------------------


def mixed() -> bytes:
    """A page of text, a scan, and a blank page, in one PDF."""
    import pypdfium2

    book = pypdfium2.PdfDocument(written([[(72, 700, 12, "The first page has its words.")]]))
    book.import_pages(pypdfium2.PdfDocument(saved("PDF", scan())))
    book.import_pages(pypdfium2.PdfDocument(written([[]])))
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def test_only_pages_without_text_are_read_and_all_keep_their_numbers() -> None:
    fake = FakeOcr()
    parsed, pages = with_fake(pdf.read, mixed(), fake)
    assert said(parsed) == [(1, "The first page has its words."), (2, "读到的字")]
    assert (pages.read, pages.unread) == ([2], [])
    assert parsed.notes[0].startswith("1 scanned page read by OCR in ")


def test_a_page_is_drawn_upright_at_200_dpi() -> None:
    import pypdfium2

    book = pypdfium2.PdfDocument(saved("PDF", scan(size=(1240, 620))))
    width, height = book[0].get_size()
    book[0].set_rotation(90)
    file = io.BytesIO()
    book.save(file)
    fake = FakeOcr()
    with_fake(pdf.read, file.getvalue(), fake)
    (shown,) = fake.shown
    assert shown.size == pytest.approx((height * 200 / 72, width * 200 / 72), abs=1)


def test_without_the_extra_pages_are_skipped_and_it_is_said_how_to_have_them_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ocr, "find_spec", lambda name: None)
    content = load(Path("a.pdf"), mixed(), max_bytes=2**24)
    assert content.notes == (
        "page 2 is scanned and was not read. Have them read with: pip install 'rag-server[ocr]'",
    )
    with pytest.raises(EmptyFileError, match=r"probably scanned.*pip install"):
        load(Path("b.pdf"), saved("PDF", scan()), max_bytes=2**24)


def test_where_it_is_turned_off_the_setting_is_named() -> None:
    (note,) = load(Path("a.pdf"), mixed(), max_bytes=2**24, limits=WITHOUT).notes
    assert "RAG_OCR" in note


def test_a_text_layer_that_means_nothing_counts_as_none() -> None:
    names = "".join(f"{code} /G{code:02d} " for code in range(32, 127))
    encoding = f"/BaseFont /X /Encoding << /Differences [{names}] >>"
    keyless = LATIN.replace("/BaseFont /Helvetica", encoding)
    fake = FakeOcr()
    with_fake(pdf.read, written([[(72, 700, 12, "What this says nobody can tell")]], keyless), fake)
    assert len(fake.shown) == 1


def test_a_stamp_on_a_scan_does_not_hide_what_is_below_it() -> None:
    import pypdfium2

    book = pypdfium2.PdfDocument(saved("PDF", scan()))
    width, height = book[0].get_size()
    stamped = written([[(10, 10, 8, "Scan 1")]]).replace(
        b"[0 0 595 842]", f"[0 0 {int(width)} {int(height)}]".encode()
    )
    fake = FakeOcr(ReadLine("图中的字比印章上的要多", 100, 100, 900, 140))
    under = pypdfium2.PdfDocument(stamped)
    picture_of = pypdfium2.PdfImage.new(under)
    picture_of.set_bitmap(pypdfium2.PdfBitmap.from_pil(scan()))
    picture_of.set_matrix(pypdfium2.PdfMatrix().scale(width, height))
    page = under[0]
    page.insert_obj(picture_of)
    page.gen_content()
    file = io.BytesIO()
    under.save(file)
    parsed, _ = with_fake(pdf.read, file.getvalue(), fake)
    assert said(parsed) == [(1, "图中的字比印章上的要多")]
    content = load(Path("a.pdf"), file.getvalue(), max_bytes=2**24, limits=WITHOUT)
    assert said(content) == [(1, "Scan 1")]


def test_no_page_is_begun_after_its_time_and_the_rest_is_named() -> None:
    ticks = iter(range(0, 1000, 10))
    pages = Scans(FakeOcr, seconds=35, clock=lambda: float(next(ticks)))
    parsed = pdf.read(saved("PDF", *[scan()] * 6), "a.pdf", pages)
    assert (pages.read, pages.unread) == ([1, 2], [3, 4, 5, 6])
    assert "pages 3-6 are scanned and were not read in the time there was" in parsed.notes[1]
    assert "RAG_MAX_PARSE_SECONDS" in parsed.notes[1]


# --- what becomes of lines ----------------------------------------------------------------------


def line(
    text: str, top: float, *, left: float = 100, width: float = 900, high: float = 40
) -> ReadLine:
    return ReadLine(text, left, top, left + width, top + high)


def test_lines_become_paragraphs_headings_and_rows() -> None:
    fake = FakeOcr(
        line("员工手册", 100, width=400, high=90),
        line("员工每年享有十五天带薪", 300),
        line("年假。", 360, width=150),
        line("另起一段，以下", 520),
        line("姓名", 640, width=120),
        line("张三", 642, left=500, width=120),
        line("李四", 639, left=800, width=120),
    )
    parsed, _ = with_fake(picture.read, saved("PNG", scan()), fake)
    assert [(e.kind, parsed.text[e.start : e.end]) for e in parsed.elements] == [
        ("heading", "员工手册"),
        ("text", "员工每年享有十五天带薪年假。"),
        ("text", "另起一段，以下"),
        ("text", "姓名 | 张三 | 李四"),
    ]


# --- pictures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_a_picture_is_a_document_without_pages(kind: str) -> None:
    parsed, _ = with_fake(picture.read, saved(kind, scan()), FakeOcr())
    assert said(parsed) == [(None, "读到的字")]


def test_each_frame_of_a_tiff_is_a_page() -> None:
    parsed, _ = with_fake(picture.read, saved("TIFF", scan(), scan(), scan()), FakeOcr())
    assert [page for page, _ in said(parsed)] == [1, 2, 3]


def test_a_photograph_is_turned_as_its_camera_says() -> None:
    file = io.BytesIO()
    exif = Pillow.Exif()
    exif[0x0112] = 6
    scan(size=(900, 300)).save(file, "JPEG", exif=exif)
    fake = FakeOcr()
    with_fake(picture.read, file.getvalue(), fake)
    assert fake.shown[0].size == (300, 900)


def test_what_is_transparent_is_white_paper() -> None:
    clear = Pillow.new("RGBA", (200, 100), (0, 0, 0, 0))
    fake = FakeOcr()
    with_fake(picture.read, saved("PNG", clear), fake)
    assert fake.shown[0].getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n", saved("PNG", scan())[:900]])
def test_a_picture_that_is_cut_off_is_damaged(data: bytes) -> None:
    with pytest.raises(DamagedFileError, match="damaged"):
        with_fake(picture.read, data, FakeOcr())


def test_a_file_of_another_kind_is_no_picture() -> None:
    with pytest.raises((DamagedFileError, UnsupportedTypeError)):
        load(Path("a.png"), b"only words", max_bytes=2**20)


def test_a_picture_that_says_nothing_is_a_document_without_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Silent(FakeOcr):
        def lines(self, picture: Picture) -> tuple[tuple[ReadLine, ...], tuple[int, int]]:
            return (), picture.size

    monkeypatch.setattr(scans, "_opened", Silent())
    content = load(Path("a.png"), saved("PNG", scan()), max_bytes=2**24)
    assert (content.title, content.text, content.elements) == ("a", "", ())
    assert content.notes[-1] == "no text was found in the picture"


# --- in an ingest -------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "documents"
    made.mkdir()
    (made / "half.pdf").write_bytes(mixed())
    (made / "notice.png").write_bytes(saved("PNG", scan()))
    return made


def ingest(folder: Path, store: EmbeddedStore, *, ocr: bool, seconds: float = 120) -> Report:
    limits = Limits(ocr=ocr, seconds=seconds)

    def loads(path: Path, data: bytes, *, max_bytes: int) -> Content:
        return load(path, data, max_bytes=max_bytes, limits=limits)

    embedder = FakeEmbedder()
    run = Ingest(
        embedder=embedder,
        splitter=Splitter(embedder.count_tokens, size=100, overlap=10),
        settings_key="1",
        lacks=lacks(limits),
    )
    plan = plan_files([folder], indexes=folder / "i", max_bytes=2**24, known=None, loads=loads)
    with store.writer(embedder.fingerprint) as writer:
        return run.run(plan, writer)


def test_what_was_not_read_is_read_as_soon_as_it_can_be_and_only_then(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scans, "_opened", FakeOcr())
    store = EmbeddedStore(tmp_path / "base")
    first = ingest(folder, store, ocr=False)
    assert (first.added, first.failed) == (["half.pdf"], [])
    assert [(left.name, left.code) for left in first.skipped] == [("notice.png", "no_text")]
    assert first.notes[0].startswith("half.pdf: page 2 is scanned and was not read")
    again = ingest(folder, store, ocr=False)
    assert (again.unchanged, again.changed) == (["half.pdf"], [])
    able = ingest(folder, store, ocr=True)
    assert (able.changed, able.added) == (["half.pdf"], ["notice.png"])
    assert len(able.notes) == 2
    last = ingest(folder, store, ocr=True, seconds=60)
    assert (last.unchanged, last.notes) == (["half.pdf", "notice.png"], [])
    store.close()


def test_a_file_that_lacked_time_is_read_again_when_there_is_more(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scans, "_opened", FakeOcr())
    (folder / "notice.png").unlink()
    store = EmbeddedStore(tmp_path / "base")
    assert "in the time there was" in ingest(folder, store, ocr=True, seconds=0).notes[0]
    assert ingest(folder, store, ocr=True, seconds=0).unchanged == ["half.pdf"]
    assert ingest(folder, store, ocr=True, seconds=9).changed == ["half.pdf"]
    store.close()


# --- really read --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader() -> Ocr:
    return scans.shared_ocr()


def texts(found: Sequence[ReadLine]) -> list[str]:
    return [line.text for line in found]


@pytest.mark.slow
@pytest.mark.ocr
class TestRead:
    @pytest.mark.parametrize("turn", [0, 90, 180, 270])
    def test_a_page_is_read_whichever_way_it_lies(self, reader: Ocr, turn: int) -> None:
        page = scan(*LINES)
        found, size = reader.lines(page.rotate(turn, expand=True))
        assert (texts(found), size) == (list(LINES), page.size)
        assert [round(line.left / 120) for line in found] == [1, 1, 1]

    def test_a_scanned_document_is_read_page_by_page(self) -> None:
        data = saved("PDF", scan(*LINES), scan("第二页写着电话号码。"))
        content = load(Path("扫描.pdf"), data, max_bytes=2**24)
        assert said(content)[-1] == (2, "第二页写着电话号码。")
        assert "".join(LINES[1:]) in "".join(text for _, text in said(content))
        assert content.elements[1].heading == (LINES[0],)
        assert content.notes[0].startswith("2 scanned pages read by OCR in ")

    def test_a_picture_file_is_read(self) -> None:
        content = load(Path("公告.JPG"), saved("JPEG", scan(*LINES)), max_bytes=2**24)
        assert (content.type, content.title) == ("jpg", "公告")
        assert LINES[1] in content.text
