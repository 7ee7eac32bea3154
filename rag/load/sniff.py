"""What a file is by its first bytes, and whether that is what its name says."""

from __future__ import annotations

import io
import zipfile

from rag.errors import (
    DamagedFileError,
    EncryptedFileError,
    FileTooLargeError,
    UnsupportedTypeError,
)

ZIP_TYPES = {"docx", "pptx", "xlsx", "epub"}
# A zip-based file may unpack to this many times the limit on a file's size.
_UNPACKED_FACTOR = 20

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
# The entry of the archive that only this format has.
_ZIP_MARKS = {
    "docx": ("word/",),
    "pptx": ("ppt/",),
    "xlsx": ("xl/",),
    "epub": ("META-INF/container.xml",),
}
_ENCRYPTED_PACKAGE = "EncryptedPackage".encode("utf-16-le")  # [MS-OFFCRYPTO] 1.3.2


def check(name: str, kind: str, data: bytes, *, max_bytes: int) -> None:
    """Raises UnsupportedTypeError if `data` plainly is not a `kind`, EncryptedFileError for an
    Office file behind a password, DamagedFileError for a broken archive, FileTooLargeError for
    one that unpacks to more than 20 times `max_bytes`."""
    found = _by_magic(data)
    if kind in ZIP_TYPES:
        _check_zip_type(name, kind, data, found, max_bytes)
    elif kind == "pdf":
        if found != "a PDF file" and b"%PDF-" not in data[:1024]:
            raise _wrong(name, kind, found) if found else _not_a(name, kind)
    elif found:
        raise _wrong(name, kind, found)


def _by_magic(data: bytes) -> str:
    return next((what for magic, what in _MAGIC if data.startswith(magic)), "")


def _check_zip_type(name: str, kind: str, data: bytes, found: str, max_bytes: int) -> None:
    if found.startswith("an old Office file"):
        if _ENCRYPTED_PACKAGE in data:
            raise EncryptedFileError(
                f"{name} is protected by a password.", "Save a copy without the password."
            )
        raise _wrong(name, kind, found)
    if "zip" not in found:
        raise _wrong(name, kind, found) if found else _not_a(name, kind)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise DamagedFileError(
            f"{name} is damaged: its archive cannot be opened ({error}).",
            "It may have been cut off on the way: copy or download it again.",
        ) from None
    if sum(entry.file_size for entry in entries) > max_bytes * _UNPACKED_FACTOR:
        raise FileTooLargeError(
            f"{name} unpacks to more than {max_bytes * _UNPACKED_FACTOR / 2**20:.0f} MB.",
            "Split it, or raise max_file_mb.",
        )
    _check_zip_mark(name, kind, [entry.filename for entry in entries])


def _check_zip_mark(name: str, kind: str, entries: list[str]) -> None:
    held = {k for k, marks in _ZIP_MARKS.items() if any(e.startswith(marks) for e in entries)}
    if kind in held:
        return
    if held:
        raise _wrong(name, kind, f"a {min(held)} file")
    raise _wrong(name, kind, "a zip file of something else")


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
