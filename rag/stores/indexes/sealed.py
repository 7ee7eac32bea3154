"""Files that tell by themselves whether they are whole, and what they belong to.

A sealed file is its payload, a note (JSON) and 16 bytes: the note's length (little-endian) and a
mark. Readers of the payload stop before the note. Since it is all one file, there is no moment at
which a payload lies beside the note of another. tantivy ends its files in nearly the same way, with
a CRC-32 of the payload, so that those are checked here too.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

_MARK = b"rag-seal"
_BLOCK = 1 << 20
_TANTIVY_MARK = (1337).to_bytes(4, "little")
_LONGEST_NOTE = 1 << 16


class Sealing:
    """Writes a payload to a file; `seal` ends it. An OSError of a write is raised by `seal`, since
    libraries that call `write` back do not let it through."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.blake2b(digest_size=16)
        self._size = 0
        self._failed: OSError | None = None

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        self._size += len(data)
        try:
            self._file.write(data)
        except OSError as error:
            self._failed = error
        return len(data)

    def seal(self, note: Mapping[str, str | int]) -> None:
        """Raises OSError."""
        if self._failed is not None:
            raise self._failed
        whole = {**note, "size": self._size, "digest": self._digest.hexdigest()}
        text = json.dumps(whole).encode()
        self._file.write(text + len(text).to_bytes(8, "little") + _MARK)
        self._file.flush()


def read_seal(path: Path) -> dict[str, str | int] | None:
    """The note, None if the file is not there, has another length than it had, or bears none."""
    try:
        with path.open("rb") as file:
            length = file.seek(0, 2)
            file.seek(max(0, length - 16))
            end = file.read()
            noted = int.from_bytes(end[:8], "little")
            if end[8:] != _MARK or noted > min(_LONGEST_NOTE, length - 16):
                return None
            file.seek(length - 16 - noted)
            note = json.loads(file.read(noted))
    except (OSError, ValueError):
        return None
    if not isinstance(note, dict) or note.get("size") != length - 16 - noted:
        return None
    return note


def is_intact(path: Path) -> bool:
    """Whether the payload is, byte for byte, what was sealed. Reads all of it."""
    note = read_seal(path)
    if note is None:
        return False
    digest = hashlib.blake2b(digest_size=16)
    for block in _blocks(path, int(note["size"])):
        digest.update(block)
    return digest.hexdigest() == note["digest"]


def broken_tantivy_files(folder: Path, *, read_all: bool) -> list[str]:
    """Names of files of a tantivy index that are lost, shortened or (`read_all`) changed.

    An index that another process is just writing is looked at again. One that is not there at all
    has none.
    """
    while True:
        meta = _meta(folder)
        broken = [] if meta == b"" else _broken(folder, meta, read_all=read_all)
        if _meta(folder) == meta:
            return broken


def tantivy_segments(folder: Path) -> dict[str, int | None]:
    """What an index consists of: its segments, and which deletions of each are in force.

    Raises ValueError if that cannot be read.
    """
    try:
        return _segments(_meta(folder))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / 'meta.json'} is not what tantivy writes") from error


def _segments(meta: bytes) -> dict[str, int | None]:
    """Segments as they are named in files, and which deletions of each are in force."""
    segments = json.loads(meta)["segments"]
    return {s["segment_id"].replace("-", ""): (s["deletes"] or {}).get("opstamp") for s in segments}


def _meta(folder: Path) -> bytes:
    try:
        return (folder / "meta.json").read_bytes()
    except FileNotFoundError:
        return b""


def _broken(folder: Path, meta: bytes, *, read_all: bool) -> list[str]:
    try:
        wanted = _segments(meta)
    except (ValueError, KeyError, TypeError, AttributeError):
        return ["meta.json"]
    broken = []
    present: set[str] = set()
    for path in sorted(folder.iterdir()):
        segment, _, kind = path.name.partition(".")
        if segment not in wanted or (kind.endswith("del") and kind != f"{wanted[segment]}.del"):
            continue
        present.update((segment, path.name))
        if not _has_footer(path, read_all=read_all):
            broken.append(path.name)
    deleted = {f"{s}.{opstamp}.del" for s, opstamp in wanted.items() if opstamp is not None}
    return broken + sorted((set(wanted) | deleted) - present)


def _has_footer(path: Path, *, read_all: bool) -> bool:
    """tantivy: payload, footer (JSON with the payload's crc), its length, a mark (4 bytes each)."""
    try:
        with path.open("rb") as file:
            length = file.seek(0, 2)
            file.seek(max(0, length - 8))
            end = file.read()
            noted = int.from_bytes(end[:4], "little")
            if end[4:] != _TANTIVY_MARK or noted > min(_LONGEST_NOTE, length - 8):
                return False
            file.seek(length - 8 - noted)
            crc = json.loads(file.read(noted))["crc"]
    except FileNotFoundError:  # tidied away meanwhile: the caller looks again
        return False
    except (ValueError, KeyError, TypeError):
        return False
    if not read_all:
        return True
    found = 0
    for block in _blocks(path, length - 8 - noted):
        found = zlib.crc32(block, found)
    return bool(found == crc)


def _blocks(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while size > 0:
            block = file.read(min(size, _BLOCK))
            if not block:
                return
            size -= len(block)
            yield block
