"""What a file is by its bytes, whatever its name says; and what is refused unread."""

from __future__ import annotations

import io
import re
import zipfile

from rag.errors import (
    DamagedFileError,
    EncryptedFileError,
    FileTooLargeError,
    UnsupportedTypeError,
)
from rag.load.limits import Limits

ZIP_TYPES = {"docx", "pptx", "xlsx", "epub"}
# A zip-based file may unpack to this many times the limit on a file's size.
_UNPACKED_FACTOR = 20
_SMALL = 100_000_000  # unpacked: how tightly it is packed does not matter
_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*+(?>(?><!--.{0,999}?-->)\s*)*+<(?:!doctype\s+html|html|head|body)\b",
    re.IGNORECASE | re.DOTALL,
)

_MAGIC = (
    (b"%PDF-", "a PDF file"),
    (b"PK\x03\x04", "a zip file"),
    (b"PK\x05\x06", "an empty zip file"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file (doc, xls, ppt or msg)"),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"II*\x00", "a TIFF picture"),
    (b"MM\x00*", "a TIFF picture"),
    (b"{\\rtf", "an RTF file"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x1f\x8b\x08", "a gzip archive"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3\x00", "an SQLite database"),
)
_PICTURES = {
    "a PNG picture": "png",
    "a JPEG picture": "jpg",
    "a TIFF picture": "tiff",
    "a WebP picture": "webp",
    "a BMP picture": "bmp",
}
# The entry of the archive that only this format has.
_ZIP_MARKS = {
    "docx": ("word/",),
    "pptx": ("ppt/",),
    "xlsx": ("xl/",),
    "epub": ("META-INF/container.xml",),
}
_LOCKED = 0x1  # of an entry's flags: APPNOTE 4.4.4
_ENCRYPTED_PACKAGE = "EncryptedPackage".encode("utf-16-le")  # [MS-OFFCRYPTO] 1.3.2


def kind_of(name: str, named: str, data: bytes, *, max_bytes: int, limits: Limits) -> str:
    """The type of `data`: what its bytes plainly are, else `named`, which its name says.

    Raises UnsupportedTypeError if it plainly is something we do not read, EncryptedFileError for
    an Office file behind a password, DamagedFileError for a broken archive and for what is not of
    the type `named`, FileTooLargeError for an archive that unpacks to more than `limits` allow or
    20 times `max_bytes`.
    """
    found = _by_magic(data)
    if found == "a PDF file" or (named == "pdf" and b"%PDF-" in data[:1024]):
        return "pdf"
    if found.startswith("an old Office file") and _ENCRYPTED_PACKAGE in data:
        raise EncryptedFileError(
            f"{name} is protected by a password.", "Save a copy without the password."
        )
    if found.endswith("a zip file"):
        return _kind_of_archive(name, named, data, max_bytes, limits)
    if found in _PICTURES:
        return _PICTURES[found]
    if found:
        raise _wrong(name, named, found)
    if named in (*ZIP_TYPES, *_PICTURES.values(), "pdf"):
        if _HTML.match(data):
            return "html"
        raise _not_a(name, named)
    return named


def _by_magic(data: bytes) -> str:
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "a WebP picture"
    if data.startswith(b"BM") and data[6:10] == bytes(4):  # reserved; "BM..." may start a text
        return "a BMP picture"
    return next((what for magic, what in _MAGIC if data.startswith(magic)), "")


def _kind_of_archive(name: str, named: str, data: bytes, max_bytes: int, limits: Limits) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise DamagedFileError(
            f"{name} is damaged: its archive cannot be opened ({error}).",
            "It may have been cut off on the way: copy or download it again.",
        ) from None
    _check_size(name, entries, len(data), max_bytes, limits)
    names = [entry.filename for entry in entries]
    kinds = [k for k, marks in _ZIP_MARKS.items() if any(n.startswith(marks) for n in names)]
    if not kinds:
        raise _wrong(name, named, "a zip file of something else")
    if any(entry.flag_bits & _LOCKED for entry in entries):
        raise EncryptedFileError(
            f"{name} is protected by a password.", "Save a copy without the password."
        )
    return named if named in kinds else kinds[0]


def _check_size(
    name: str, entries: list[zipfile.ZipInfo], packed: int, max_bytes: int, limits: Limits
) -> None:
    """By what the archive says of itself; `zipfile` unpacks no more of an entry than it says."""
    most = min(limits.unpacked, max_bytes * _UNPACKED_FACTOR)
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > most:
        raise FileTooLargeError(
            f"{name} unpacks to more than {most / 2**20:.0f} MB.",
            "Split it, or raise RAG_MAX_UNPACKED_MB and RAG_MAX_FILE_MB.",
        )
    if unpacked > _SMALL and unpacked > limits.unpacked_ratio * packed:
        raise FileTooLargeError(
            f"{name} unpacks to {unpacked / packed:.0f} times its size.",
            "If it is not made to do harm, raise RAG_MAX_UNPACKED_RATIO.",
        )
    if len(entries) > limits.entries:
        raise FileTooLargeError(
            f"{name} is an archive of {len(entries):,} files, more than the {limits.entries:,}"
            " that are read.",
            "Split it.",
        )


def _wrong(name: str, kind: str, found: str) -> UnsupportedTypeError:
    return UnsupportedTypeError(
        f"{name} is not a {kind} file: by its content it is {found}.",
        "Give it its own extension, or save it as a supported type.",
    )


def _not_a(name: str, kind: str) -> DamagedFileError:
    return DamagedFileError(
        f"{name} is damaged, or not a {kind} file at all.",
        "Open it in its own program and save it again.",
    )
