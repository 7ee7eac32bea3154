"""PDF by pypdfium2: lines and ruled tables of each page; pages without text are drawn and read."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rag.errors import DamagedFileError, EmptyFileError, EncryptedFileError
from rag.load.build import Builder, Parsed
from rag.load.lines import add_pages
from rag.load.pages.letters import pieces_of
from rag.load.pages.printed import Line, Table
from rag.load.pages.ruled import with_tables
from rag.load.scans import Scans

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from pypdfium2 import PdfDocument, PdfPage, PdfTextPage

_pdfium = threading.Lock()  # PDFium must not be used by two threads at once
_POINTS = 72  # to the inch
_DPI = 200
_MAX_SIDE = 3500  # pixels, of a drawn page: posters are drawn coarser
_BLANK_DPI = 18
_BLANK_CONTRAST = 12  # of 255
_STAMP = 24  # characters: a page of fewer that is mostly a picture is a scan with a stamp
_PICTURE_SHARE = 0.5  # of the page
_GARBAGE = 0.5  # share of characters that have no meaning
_SAMPLE = 400  # characters
_MEANINGLESS = re.compile("[\ufffd\ue000-\uf8ff\U000f0000-\U0010ffff\x00-\x08\x0e-\x1f]")
_JUNK_TITLE = re.compile(
    r"^(untitled|无标题|未命名|microsoft (word|powerpoint|excel)|document\d*$|文档\d*$|slide \d)"
    r"|\.(docx?|pptx?|xlsx?|wps|indd|tex|dvi|html?|pdf|md|rtf|odt|cdr|ai)$",
    re.IGNORECASE,
)


def read(data: bytes, name: str, scans: Scans) -> Parsed:
    """A page without text, or with none that means anything, is read from its picture.

    Raises EncryptedFileError, DamagedFileError, and EmptyFileError for a scan that was not read.
    """
    with _opened(data, name) as document:
        with _pdfium:
            count, title = len(document), _title(document)
        pages: list[Sequence[Line | Table]] = []
        for index in range(count):
            tables = [block for block in pages[-1] if isinstance(block, Table)] if pages else []
            pages.append(_page(document, index, scans, tables[-1].edges if tables else ()))
    if not any(map(_length, pages)):
        them = f"{count} pages" if count != 1 else "only page"
        if scans.unread:
            raise EmptyFileError(
                f"No text found on the {them} of {name}; it is probably scanned.", scans.hint
            )
        raise EmptyFileError(f"No text found on the {them} of {name}.", "Check what it holds.")
    builder = Builder()
    add_pages(builder, pages)
    return builder.parsed(title, scans.notes, scans.lacking)


@contextmanager
def _opened(data: bytes, name: str) -> Iterator[PdfDocument]:
    from pypdfium2 import PdfDocument, PdfiumError

    with _pdfium:
        try:
            document = PdfDocument(data)
        except PdfiumError as error:
            if "password" in str(error).lower():
                raise EncryptedFileError(
                    f"{name} is protected by a password.", "Save a copy without the password."
                ) from None
            raise DamagedFileError(
                f"{name} is damaged: it cannot be opened as a PDF ({error}).",
                "It may have been cut off on the way: copy or download it again.",
            ) from None
    try:
        yield document
    finally:
        with _pdfium:
            document.close()


def _page(
    document: PdfDocument, index: int, scans: Scans, before: Sequence[float]
) -> Sequence[Line | Table]:
    """Others may use PDFium while a picture is read. `before`: see `with_tables`."""
    with _pdfium, _page_of(document, index) as page:
        printed, scanned = _text_layer(page, before)
    if not scanned:
        return printed

    def draw() -> Picture:
        with _pdfium, _page_of(document, index) as page:
            longest = max(page.get_size()) or 1.0
            return _drawn(page, min(_DPI / _POINTS, _MAX_SIDE / longest))

    return max(printed, scans.lines(index + 1, draw), key=_length)


def _length(printed: Sequence[Line | Table]) -> int:
    return sum(
        len(line.text)
        for block in printed
        for line in (block.lines if isinstance(block, Table) else (block,))
    )


@contextmanager
def _page_of(document: PdfDocument, index: int) -> Iterator[PdfPage]:
    page = document[index]
    try:
        yield page
    finally:
        page.close()


def _text_layer(page: PdfPage, before: Sequence[float]) -> tuple[Sequence[Line | Table], bool]:
    """What is printed, nothing if it means nothing, and whether the page has to be read as a
    picture."""
    text_page = page.get_textpage()
    try:
        pieces = list(pieces_of(text_page))
        lines = [piece.line for piece in pieces]
        if _is_garbage(text_page, lines):
            return [], True
        length = _length(lines)
        if not length:
            return lines, not _is_blank(page)
        if length < _STAMP and _is_mostly_picture(page):
            return lines, True
        return with_tables(page, pieces, before), False
    finally:
        text_page.close()


def _is_garbage(text_page: PdfTextPage, lines: list[Line]) -> bool:
    """Characters of a font without a key to them, or of no alphabet at all."""
    from pypdfium2 import raw

    text = "".join(line.text for line in lines)
    if not text:
        return False
    if len(_MEANINGLESS.findall(text)) > _GARBAGE * len(text):
        return True
    count = text_page.count_chars()
    sample = range(0, count, max(1, count // _SAMPLE))
    unknown = sum(raw.FPDFText_HasUnicodeMapError(text_page, i) == 1 for i in sample)
    return bool(unknown > _GARBAGE * len(sample))


def _is_mostly_picture(page: PdfPage) -> bool:
    from pypdfium2 import raw

    width, height = page.get_size()
    covered = 0.0
    for picture in page.get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE], max_depth=2):
        left, bottom, right, top = picture.get_bounds()
        covered += max(0.0, right - left) * max(0.0, top - bottom)
    return bool(covered >= _PICTURE_SHARE * width * height)


def _is_blank(page: PdfPage) -> bool:
    shades = _drawn(page, _BLANK_DPI / _POINTS).convert("L").histogram()
    used = [shade for shade, count in enumerate(shades) if count]
    return used[-1] - used[0] < _BLANK_CONTRAST


def _drawn(page: PdfPage, scale: float) -> Picture:
    """Upright, in grey."""
    bitmap = page.render(scale=scale, grayscale=True)
    try:
        picture: Picture = bitmap.to_pil().copy()
    finally:
        bitmap.close()
    return picture


def _title(document: PdfDocument) -> str:
    """The metadata's title, unless a program put it there rather than a person."""
    title = " ".join(document.get_metadata_dict().get("Title", "").split())
    sensible = 2 <= len(title) <= 150 and not _JUNK_TITLE.search(title) and "\ufffd" not in title
    return title if sensible else ""
