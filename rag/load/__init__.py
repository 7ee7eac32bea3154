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
    plain,
    rich,
    slides,
    spreadsheet,
    tables,
    word,
)
from rag.load.build import Parsed
from rag.load.decode import decode
from rag.load.sniff import check
from rag.types import Content

LOADER_VERSION = "1"

_ALIASES = {"markdown": "md", "htm": "html"}
SUPPORTED_TYPES: tuple[str, ...] = (
    "txt", "md", "markdown", "html", "htm", "pdf", "docx", "pptx", "xlsx",
    "csv", "tsv", "eml", "epub", "json", "jsonl",
)  # fmt: skip


def load(path: Path, data: bytes | None = None, *, max_bytes: int) -> Content:
    """Reads the file at `path`, or `data`, of which `path` is then only the name.

    For txt, md, csv, tsv, json and jsonl the text is the decoded source itself (no byte order mark,
    newlines as "\\n", NUL and lone surrogates as U+FFFD); for the other types it is composed of
    what a reader sees, a blank line between blocks and one line a table row.

    Raises UnsupportedTypeError, FileTooLargeError (more than `max_bytes`, or 20 times that
    unpacked), EmptyFileError (no text in it), EncryptedFileError, DamagedFileError, or a bare
    LoadError if the file cannot be opened.
    """
    kind = _kind(path)
    data = _read(path, max_bytes) if data is None else data
    if len(data) > max_bytes:
        raise _too_large(path.name, len(data), max_bytes)
    if not data:
        raise EmptyFileError(f"{path.name} is empty (0 bytes).", "Check that it was saved.")
    check(path.name, kind, data, max_bytes=max_bytes)
    parsed = _parse_safely(kind, data, path.name)
    if not any(parsed.text[e.start : e.end].strip() for e in parsed.elements):
        raise EmptyFileError(f"No text found in {path.name}.", "Check what it holds.")
    return Content(
        type=kind, title=parsed.title or path.stem, text=parsed.text, elements=parsed.elements
    )


def _kind(path: Path) -> str:
    extension = path.suffix.lower().removeprefix(".")
    if extension not in SUPPORTED_TYPES:
        what = f"of type {extension}" if extension else "without an extension"
        raise UnsupportedTypeError(
            f"{path.name} is a file {what}, which cannot be read.",
            f"Supported: {', '.join(SUPPORTED_TYPES)}.",
        )
    return _ALIASES.get(extension, extension)


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise _too_large(path.name, size, max_bytes)
        return path.read_bytes()
    except OSError as error:
        raise LoadError(
            f"{path.name} cannot be opened: {error.strerror or error}.", "Check path and rights."
        ) from None


def _too_large(name: str, size: int, max_bytes: int) -> FileTooLargeError:
    return FileTooLargeError(
        f"{name} has {size / 2**20:.1f} MB, more than the {max_bytes / 2**20:.1f} MB allowed.",
        "Split it, or raise max_file_mb.",
    )


def _parse_safely(kind: str, data: bytes, name: str) -> Parsed:
    try:
        return _parse(kind, data, name)
    except (RagError, ImportError):
        raise
    except (
        Exception
    ) as error:  # whatever a parser trips over, it is this file's and the run goes on
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise DamagedFileError(
            f"{name} cannot be read as {kind}: {type(error).__name__}: {reason}".rstrip(": ") + ".",
            "Open it in its own program and save it again.",
        ) from error


def _parse(kind: str, data: bytes, name: str) -> Parsed:
    match kind:
        case "pdf":
            return pdf.read(data, name)
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
