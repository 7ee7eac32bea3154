"""Files and folders as sources of an ingest."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from rag.errors import FileTooLargeError, InputError, LoadError
from rag.ingest import Covers, Failure, Plan
from rag.load import SUPPORTED_TYPES, load
from rag.types import Content, Known

_FILE = "file:"
# What editors, office programs and systems leave beside documents.
_NOT_DOCUMENTS = ("~$", ".")
_NOT_FOLDERS = ("node_modules", "__pycache__")
# Bytes of a name that are no UTF-8, as Python shows them and as a uri, which is UTF-8, keeps them.
_STRAY_BYTE = re.compile("[\udc80-\udcff]")
_NOT_SHOWN = re.compile("[\0\ud800-\udfff]")
_KEPT_BYTE = re.compile("\ufffd([89a-f][0-9a-f])")


class Loads(Protocol):
    """`rag.load.load`, here or in a process of its own."""

    def __call__(self, path: Path, data: bytes, *, max_bytes: int) -> Content: ...


@dataclass(frozen=True, slots=True)
class FileSource:
    """One file. Its uri is its path as seen from the folder of indexes, so that a project can be
    moved or mounted elsewhere as a whole."""

    path: Path
    uri: str
    name: str
    max_bytes: int
    loads: Loads = load

    def read(self) -> bytes:
        try:
            with open(_opened(self.path), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise LoadError(f"{self.name} is not a file.", "Leave it out.")
                _check_size(self.name, status.st_size, self.max_bytes)
                data = file.read(self.max_bytes + 1)  # it may have grown since
        except OSError as error:
            raise LoadError(
                f"{self.name} cannot be read: {error.strerror}.",
                "Check that the file is there and its permissions.",
            ) from None
        _check_size(self.name, len(data), self.max_bytes)
        return data

    def load(self, data: bytes) -> Content:
        return self.loads(Path(self.name), data, max_bytes=self.max_bytes)


def _opened(path: Path) -> int:
    """Never waits, as opening a pipe would."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


@dataclass(frozen=True, slots=True)
class _ClosedFolder:
    """A folder that cannot be listed: reported like a file that cannot be read."""

    path: Path
    indexes: Path
    error: OSError

    @property
    def uri(self) -> str:
        return uri_of(self.path, self.indexes)

    @property
    def name(self) -> str:
        return _shown(self.path.name)

    def read(self) -> bytes:
        raise LoadError(
            f"The folder {self.name} cannot be read: {self.error.strerror}.",
            "Check its permissions; its documents are kept as they were.",
        )

    def load(self, _data: bytes) -> Content:
        """Never comes to it: `read` has said what is wrong."""
        raise LoadError(f"The folder {self.name} is not a document.")


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that came over the network, read when its turn comes. The name identifies it."""

    filename: str
    size: int
    read_all: Callable[[], bytes]
    max_bytes: int = 0
    loads: Loads = load

    @property
    def name(self) -> str:
        last = self.filename.replace("\\", "/").rsplit("/", 1)[-1]
        return _shown(last).strip()

    @property
    def uri(self) -> str:
        return f"upload:{self.name}"

    def read(self) -> bytes:
        if not self.name or self.name in (".", ".."):
            raise LoadError(f"{self.filename!r} is not a file name.", "Name the file.")
        _check_size(self.name, self.size, self.max_bytes)
        return self.read_all()

    def load(self, data: bytes) -> Content:
        return self.loads(Path(self.name), data, max_bytes=self.max_bytes)


def _check_size(name: str, size: int, limit: int) -> None:
    if size > limit:
        raise FileTooLargeError(
            f"{name} has {size / 1e6:.1f} MB; at most {limit / 1e6:g} MB are read.",
            "Split the file, or raise RAG_MAX_FILE_MB.",
        )


def plan_files(
    paths: Sequence[Path],
    *,
    indexes: Path,
    max_bytes: int,
    known: Known | None,
    loads: Loads = load,
    follow_links: bool = False,
) -> Plan:
    """A plan for these files and all documents below these folders.

    A folder covers the documents that came from below it, but for those below a folder that cannot
    be read, and unless no document is left in it: an empty folder is more often a disk that is not
    mounted than a wish to forget everything. A document that is `known` keeps its name when a part
    of its folder is ingested alone.

    A link below a folder is read if it leads to a file below that folder, or to any file with
    `follow_links`; other links, and all links to folders, are skipped and say so. A path that is
    given may be a link itself. Raises InputError for a path that does not exist.
    """
    indexes = indexes.resolve()
    found: dict[str, tuple[Path, str]] = {}
    skipped: list[Failure] = []
    notes: list[str] = []
    roots: list[Path] = []
    unreadable: list[OSError] = []

    within = cache(lambda folder: _within(Path(folder), indexes))

    def add(path: Path, name: str) -> None:
        folder, last = os.path.split(path)
        found.setdefault(within(folder) + _utf8(last), (path, _shown(name)))

    for given in paths:
        path = given.expanduser()
        if path.is_dir():
            root = path.resolve()
            documents = 0
            for file in _walk(root, indexes, unreadable):
                name = file.relative_to(root).as_posix()
                refused = _refused_link(file, root, _shown(name), follow_links)
                refused = refused or _refused_type(file, _shown(name))
                if refused is not None:
                    skipped.append(refused)
                else:
                    add(file, name)
                    documents += 1
            if documents:
                roots.append(root)
            else:
                notes.append(
                    f"{_shown(str(given))} holds no documents; what was ingested from it before is"
                    " kept. Remove it with: rag docs rm"
                )
        elif path.exists():
            add(path.resolve(), path.name)
        else:
            raise InputError(f"There is no file or folder {str(given)!r}.", "Check the path.")

    closed = [_ClosedFolder(Path(error.filename), indexes, error) for error in unreadable]

    def is_below(uri: str) -> bool:
        path = path_of(uri, indexes)
        return (
            path is not None
            and any(path.is_relative_to(root) for root in roots)
            and not any(path.is_relative_to(folder.path) for folder in closed)
        )

    def is_gone(uri: str) -> bool:
        path = path_of(uri, indexes)
        return path is not None and not path.exists()

    names = {} if known is None else known.some(found)
    sources = [
        FileSource(path, uri, names[uri].name if uri in names else name, max_bytes, loads)
        for uri, (path, name) in found.items()
    ]
    sources.sort(key=lambda source: source.name)
    covers = Covers(tuple(_prefix(root, indexes) for root in roots), is_below)
    return Plan([*sources, *closed], covers, is_gone, skipped, notes)


def _prefix(root: Path, indexes: Path) -> str:
    """That of the uris of all files below `root`: below a folder that holds the folder of indexes,
    they may begin with anything."""
    return _FILE if indexes.is_relative_to(root) else f"{uri_of(root, indexes)}/"


def uri_of(path: Path, indexes: Path) -> str:
    return _FILE + _utf8(Path(os.path.relpath(path, indexes)).as_posix())


def _within(folder: Path, indexes: Path) -> str:
    """That with which the uris of the files in a folder begin."""
    return _FILE if folder == indexes else f"{uri_of(folder, indexes)}/"


def _utf8(name: str) -> str:
    return _STRAY_BYTE.sub(lambda byte: f"\ufffd{ord(byte[0]) - 0xDC00:02x}", name)


def path_of(uri: str, indexes: Path) -> Path | None:
    """None for a document that did not come from a file of this machine."""
    if not uri.startswith(_FILE):
        return None
    relative = _KEPT_BYTE.sub(lambda m: chr(0xDC00 + int(m[1], 16)), uri.removeprefix(_FILE))
    return Path(os.path.normpath(indexes / relative))


def _walk(root: Path, indexes: Path, unreadable: list[OSError]) -> Iterator[Path]:
    """Files, and links to folders, which are not gone into: a link can lead in a circle."""
    for folder, names, files in os.walk(root, onerror=unreadable.append):
        here = Path(folder)
        names[:] = sorted(
            n
            for n in names
            if not n.startswith(".") and n not in _NOT_FOLDERS and here / n != indexes
        )
        links = [name for name in names if (here / name).is_symlink()]
        for name in sorted(files + links):
            if not name.startswith(_NOT_DOCUMENTS):
                yield here / name


def _refused_link(path: Path, root: Path, name: str, follow_links: bool) -> Failure | None:
    """Why a link below `root` is not read; None if it is, or is no link."""
    if not path.is_symlink():
        return None
    if path.is_dir():
        return Failure(
            name,
            "link",
            f"{name} is a link to a folder, which is not gone into.",
            "Ingest the folder that it leads to.",
        )
    # Unlike resolve(), realpath does not raise for a link to itself; reading it will.
    if follow_links or Path(os.path.realpath(path)).is_relative_to(root):
        return None
    return Failure(
        name,
        "link",
        f"{name} is a link out of the folder, which is not followed.",
        "Ingest what it leads to, or set RAG_FOLLOW_LINKS=true.",
    )


def _refused_type(path: Path, name: str) -> Failure | None:
    extension = path.suffix.lower().removeprefix(".")
    if extension in SUPPORTED_TYPES:
        return None
    kind = f".{_shown(extension)}" if extension else "no extension"
    return Failure(
        name,
        "unsupported_type",
        f"{name} is of a type that is not read ({kind}).",
        f"Supported: {', '.join(SUPPORTED_TYPES)}.",
    )


def _shown(name: str) -> str:
    """As it can be stored and printed."""
    return unicodedata.normalize("NFC", _NOT_SHOWN.sub("\ufffd", name))
