"""A file -> Content: its text, and where its headings, paragraphs, rows and pages are in it."""

from __future__ import annotations

from pathlib import Path

from rag.errors import (
    DamagedFileError,
    EmptyFileError,
    FileTooLargeError,
    LoadError,
    RagError,
    UnsupportedTypeError,
)
from rag.load import (
    epub,
    jsons,
    mail,
    markdown,
    pdf,
    picture,
    plain,
    rich,
    slides,
    spreadsheet,
    tables,
    word,
)
from rag.load.build import Parsed, clean
from rag.load.decode import decode
from rag.load.limits import Limits
from rag.load.scans import Scans
from rag.load.sniff import kind_of
from rag.types import Content

LOADER_VERSION = "3"

_ALIASES = {"markdown": "md", "htm": "html", "jpeg": "jpg", "tif": "tiff"}
SUPPORTED_TYPES: tuple[str, ...] = (
    "txt", "md", "markdown", "html", "htm", "pdf", "docx", "pptx", "xlsx",
    "csv", "tsv", "eml", "epub", "json", "jsonl", *picture.TYPES,
)  # fmt: skip
_OCR_SHARE = 0.8  # of the time for a file: what was read by then is kept


def load(
    path: Path,
    data: bytes | None = None,
    *,
    max_bytes: int,
    limits: Limits = Limits(),
) -> Content:
    """Reads the file at `path`, or `data`, of which `path` is then only the name.

    A file is read as what its bytes plainly are, whatever its name says; `Content.type` tells. For
    txt, md, csv, tsv, json and jsonl the text is the decoded source itself (no byte order mark,
    newlines as "\\n", NUL and lone surrogates as U+FFFD); for the other types it is composed of
    what a reader sees, a blank line between blocks and one line a table row.

    Raises UnsupportedTypeError, FileTooLargeError (more than `max_bytes`, or than `limits` allow),
    EmptyFileError (no text in it), NoTextError (a picture that says nothing, or cannot be read
    here), EncryptedFileError, DamagedFileError, or a bare LoadError if it cannot be opened.
    """
    named, data = admitted(path, data, max_bytes)
    name = clean(path.name)
    kind = kind_of(name, named, data, max_bytes=max_bytes, limits=limits)
    parsed = _parse_safely(kind, data, name, limits)
    _check_output(parsed, name, limits)
    said = any(parsed.text[e.start : e.end].strip() for e in parsed.elements)
    if not said and kind not in picture.TYPES:
        raise EmptyFileError(f"No text found in {name}.", "Check what it holds.")
    return Content(
        type=kind,
        title=parsed.title or clean(path.stem),
        text=parsed.text,
        elements=parsed.elements,
        notes=parsed.notes,
        lacking=parsed.lacking,
    )


def lacks(limits: Limits = Limits()) -> str:
    """What `Content.lacking` says of a file that is not read as a whole here and now."""
    return _scans(limits).lacks


def admitted(path: Path, data: bytes | None, max_bytes: int) -> tuple[str, bytes]:
    """The type that the name says, and the bytes: all that can be told without reading them.

    Raises UnsupportedTypeError, FileTooLargeError, EmptyFileError, or a bare LoadError.
    """
    kind, name = _kind(path), clean(path.name)
    data = _read(path, max_bytes) if data is None else data
    if len(data) > max_bytes:
        raise _too_large(name, len(data), max_bytes)
    if not data:
        raise EmptyFileError(f"{name} is empty (0 bytes).", "Check that it was saved.")
    return kind, data


def _check_output(parsed: Parsed, name: str, limits: Limits) -> None:
    characters = len(parsed.text)  # of 1 to 4 bytes
    if 4 * characters > limits.text and len(parsed.text.encode()) > limits.text:
        raise FileTooLargeError(
            f"{name} holds more than {limits.text / 1e6:g} MB of text.",
            "Split it, or raise RAG_MAX_TEXT_MB.",
        )
    if len(parsed.elements) > limits.elements:
        raise FileTooLargeError(
            f"{name} holds more than {limits.elements:,} rows and paragraphs.", "Split it."
        )


def _kind(path: Path) -> str:
    extension = path.suffix.lower().removeprefix(".")
    if extension not in SUPPORTED_TYPES:
        what = f"of type {extension}" if extension else "without an extension"
        raise UnsupportedTypeError(
            f"{clean(path.name)} is a file {what}, which cannot be read.",
            f"Supported: {', '.join(SUPPORTED_TYPES)}.",
        )
    return _ALIASES.get(extension, extension)


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise _too_large(clean(path.name), size, max_bytes)
        return path.read_bytes()
    except OSError as error:
        raise LoadError(
            f"{clean(path.name)} cannot be opened: {error.strerror or error}.",
            "Check path and rights.",
        ) from None


def _too_large(name: str, size: int, max_bytes: int) -> FileTooLargeError:
    return FileTooLargeError(
        f"{name} has {size / 2**20:.1f} MB, more than the {max_bytes / 2**20:.1f} MB allowed.",
        "Split it, or raise max_file_mb.",
    )


def _parse_safely(kind: str, data: bytes, name: str, limits: Limits) -> Parsed:
    try:
        return _parse(kind, data, name, limits)
    except (RagError, ImportError, MemoryError):
        raise
    except RecursionError:
        raise DamagedFileError(
            f"{name} is nested too deeply to be read.", "Check what made it so deep."
        ) from None
    except (
        Exception
    ) as error:  # whatever a parser trips over, it is this file's and the run goes on
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise DamagedFileError(
            f"{name} cannot be read as {kind}: {type(error).__name__}: {reason}".rstrip(": ") + ".",
            "Open it in its own program and save it again.",
        ) from error


def _parse(kind: str, data: bytes, name: str, limits: Limits) -> Parsed:
    match kind:
        case "pdf":
            return pdf.read(data, name, _scans(limits))
        case "png" | "jpg" | "tiff" | "webp" | "bmp":
            return picture.read(data, name, _scans(limits))
        case "docx":
            return word.read(data)
        case "pptx":
            return slides.read(data)
        case "xlsx":
            return spreadsheet.read(data)
        case "html":
            return rich.read_html(data, name)
        case "epub":
            return epub.read(data, name)
        case "eml":
            return mail.read(data, name)
    text = decode(data, name)
    match kind:
        case "md":
            return markdown.read(text)
        case "csv" | "tsv":
            return tables.read(text, kind)
        case "json":
            return jsons.read(text, name)
        case "jsonl":
            return jsons.read_lines(text, name)
    return plain.read(text)


def _scans(limits: Limits) -> Scans:
    return Scans.open(wanted=limits.ocr, seconds=_OCR_SHARE * limits.seconds)
