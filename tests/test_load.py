"""`load` as a whole: types, limits, and one clear error for each way a file can be bad."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import docx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rag import load as package
from rag.errors import (
    DamagedFileError,
    EmptyFileError,
    EncryptedFileError,
    FileTooLargeError,
    LoadError,
    UnsupportedTypeError,
)
from rag.load import LOADER_VERSION, SUPPORTED_TYPES, load

LIMIT = 2**20
SLOW = pytest.mark.slow
OLE = bytes.fromhex("d0cf11e0a1b11ae1")
PDF = b"%PDF-1.7\n..."


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, kind)
    return file.getvalue()


def word_file() -> bytes:
    document = docx.Document()
    document.add_paragraph("正文")
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def zipped(**files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/"), data)
    return file.getvalue()


def test_a_file_is_read_from_its_path_or_from_given_bytes(tmp_path: Path) -> None:
    path = tmp_path / "制度.md"
    path.write_text("# 休假\n\n十五天。\n", encoding="utf-8")
    content = load(path, max_bytes=LIMIT)
    assert content == load(Path("制度.md"), path.read_bytes(), max_bytes=LIMIT)
    assert (content.type, content.title) == ("md", "休假")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("A.TXT", "txt"), ("a.markdown", "md"), pytest.param("a.Htm", "html", marks=SLOW)],
)
def test_the_type_is_the_plain_extension(name: str, kind: str) -> None:
    assert load(Path(name), "文字 text".encode(), max_bytes=LIMIT).type == kind


def test_supported_types_and_version_are_part_of_the_interface() -> None:
    required = [
        "txt",
        "md",
        "html",
        "htm",
        "pdf",
        "docx",
        "pptx",
        "xlsx",
        "csv",
        "tsv",
        "eml",
        "epub",
        "json",
        "jsonl",
    ]
    assert set(required) <= set(SUPPORTED_TYPES)
    assert LOADER_VERSION


@pytest.mark.parametrize("name", ["a.exe", "README", "a.doc", ".md"])
def test_an_unknown_extension_lists_what_is_supported(name: str) -> None:
    with pytest.raises(UnsupportedTypeError) as caught:
        load(Path(name), b"x", max_bytes=LIMIT)
    assert name in caught.value.message
    assert all(kind in caught.value.hint for kind in SUPPORTED_TYPES)


@pytest.mark.parametrize("kind", SUPPORTED_TYPES)
def test_no_bytes_are_an_empty_file_for_every_type(kind: str) -> None:
    with pytest.raises(EmptyFileError, match=rf"a\.{kind} is empty"):
        load(Path(f"a.{kind}"), b"", max_bytes=LIMIT)


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.md", b" \n\t\n"), ("a.txt", b"\xef\xbb\xbf"),
     pytest.param("a.html", b"<html><body></body></html>", marks=SLOW),
     ("a.csv", b",,\n\n"), ("a.json", b"[]"), ("a.md", b"---\n\n***\n")],
)  # fmt: skip
def test_a_file_that_says_nothing_is_empty(name: str, data: bytes) -> None:
    with pytest.raises(EmptyFileError, match="No text found"):
        load(Path(name), data, max_bytes=LIMIT)


def test_a_file_over_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "big.txt"
    path.write_bytes(b"x" * 11)
    with pytest.raises(FileTooLargeError, match=r"big\.txt"):
        load(path, max_bytes=10)
    with pytest.raises(FileTooLargeError):
        load(Path("big.txt"), b"x" * 11, max_bytes=10)


def test_an_archive_that_unpacks_to_far_more_than_the_limit_is_refused() -> None:
    bomb = zipped(word__document_xml=b"\0" * (20 * LIMIT + 1))
    assert len(bomb) < LIMIT
    with pytest.raises(FileTooLargeError, match="unpacks to more than 20 MB"):
        load(Path("a.docx"), bomb, max_bytes=LIMIT)


@pytest.mark.parametrize(
    ("name", "data", "found"),
    [("a.epub", zipped(x=b"y"), "a zip file of something else"), ("a.txt", OLE, "an old Office"),
     ("a.docx", OLE + b"\0" * 600, "an old Office file"), ("a.docx", b"{\\rtf1 x}", "an RTF file"),
     ("a.pdf", picture("GIF"), "a GIF picture"), ("a.md", b"\x7fELF\x02", "a program")],
)  # fmt: skip
def test_content_that_is_of_no_type_that_is_read_is_named(
    name: str, data: bytes, found: str
) -> None:
    with pytest.raises(UnsupportedTypeError, match=re.escape(found)):
        load(Path(name), data, max_bytes=LIMIT)


@pytest.mark.parametrize("kind", ["docx", "pptx", "xlsx"])
def test_an_office_file_behind_a_password_is_locked_not_damaged(kind: str) -> None:
    data = OLE + b"\0" * 504 + "EncryptedPackage".encode("utf-16-le")
    with pytest.raises(EncryptedFileError, match="password"):
        load(Path(f"a.{kind}"), data, max_bytes=LIMIT)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_a_truncated_word_file_is_damaged(share: float) -> None:
    data = word_file()
    with pytest.raises(DamagedFileError, match=r"a\.docx is damaged"):
        load(Path("a.docx"), data[: int(len(data) * share)], max_bytes=LIMIT)


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.docx", b"plain words"), ("a.pdf", b"plain words"), ("a.eml", b"plain words"),
     ("a.docx", zipped(word__document=b"x")), ("a.xlsx", zipped(xl__workbook=b"x")),
     pytest.param("a.pptx", zipped(ppt__x=b"x"), marks=SLOW), ("a.txt", bytes(range(1, 9)) * 50),
     ("a.epub", zipped(**{"META-INF__container.xml": b"<x/>"}))],
)  # fmt: skip
def test_a_broken_file_is_one_sentence_that_names_it(name: str, data: bytes) -> None:
    with pytest.raises(DamagedFileError) as caught:
        load(Path(name), data, max_bytes=LIMIT)
    assert caught.value.message.startswith(name)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_a_file_that_is_gone_is_a_load_error(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="cannot be opened"):
        load(tmp_path / "gone.txt", max_bytes=LIMIT)


@SLOW
@settings(deadline=None)  # the first example imports `unstructured`
@given(st.sampled_from(SUPPORTED_TYPES), st.binary(max_size=200))
def test_random_bytes_are_content_or_a_load_error(kind: str, data: bytes) -> None:
    try:
        content = load(Path(f"a.{kind}"), data, max_bytes=LIMIT)
    except LoadError as error:
        said = error.message
    else:
        said = content.text
    assert said


# An audit hook sees every socket, and leaving at once cannot be caught. (urllib3 makes and binds a
# socket on import, to see whether there is IPv6; it goes nowhere.)
QUIET = """
import os, sys
from pathlib import Path
sys.addaudithook(lambda event, _: event in (
    "socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "urllib.Request",
) and os._exit(3))
from rag.load import load
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", QUIET + code],
        cwd=Path(package.__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@SLOW
def test_reading_plain_text_loads_no_heavy_library() -> None:
    heavy = (
        "unstructured numpy pandas spacy lxml docx pptx openpyxl pypdfium2 markdown_it bs4 torch"
    )
    done = run(
        "load(Path('a.txt'), '第一章 总则'.encode('gbk'), max_bytes=99)\n"
        "load(Path('a.csv'), b'a,b', max_bytes=99); load(Path('a.json'), b'[1]', max_bytes=99)\n"
        f"print([m for m in {heavy.split()} if m in sys.modules])"
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@SLOW
def test_reading_rich_formats_opens_no_socket_and_prints_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(word_file())
    done = run(
        f"assert load(Path({str(tmp_path / 'a.docx')!r}), max_bytes=2**20).text == '正文'\n"
        "page = 'This is a sentence about annual leave. 年假十五天。'\n"
        "assert load(Path('a.html'), page.encode(), max_bytes=999).text == page\n"
        "from unstructured.partition import text_type\n"
        "assert not text_type.contains_verb('Is anything downloaded?')\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
