"""A tantivy index that is changed aside, and then shown in no time.

tantivy makes a commit visible as it writes it, which takes a second for some thousand documents.
So its writer works in a folder beside the index, on links to files of it, which never change.
Showing moves the new files over and gives meta.json, which says what the index consists of, its
place, so that there is no moment at which a file of it is missing.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from rag.stores.files import sync
from rag.stores.indexes.sealed import tantivy_segments

_META = "meta.json"
_MANAGED = ".managed.json"  # the files that tantivy tidies away when it needs them no more


def branch(live: Path) -> Path:
    """A folder with the index as it is, for a writer. What one that died has left goes."""
    folder = empty(live)
    names = [path.name for path in _files(live)]
    for name in names:
        (folder / name).symlink_to(Path("..", live.name, name))
    (folder / _MANAGED).write_text(json.dumps([*names, _META]))
    (folder / _META).write_bytes((live / _META).read_bytes())
    return folder


def empty(live: Path) -> Path:
    """A folder for an index that is to take the place of all there is."""
    folder = live.with_suffix(".next")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def settle(folder: Path, live: Path) -> None:
    """The slow part of showing: the new files get their place, where nothing refers to them yet,
    and everything is on the disk. Raises OSError."""
    for path in _files(folder):
        if not path.is_symlink():
            path.rename(live / path.name)
            path.symlink_to(Path("..", live.name, path.name))
    for name in (_MANAGED, _META):
        sync(folder / name)
    sync(live)


def show(folder: Path, live: Path) -> None:
    """Makes `live` what `folder` is, which goes. Raises OSError, with one of both still shown."""
    kept = {path.name for path in _files(folder)}
    (folder / _MANAGED).replace(live / _MANAGED)
    (folder / _META).replace(live / _META)
    sync(live)
    for path in live.iterdir():
        if not path.name.startswith(".") and path.name not in kept | {_META}:
            path.unlink(missing_ok=True)
    drop(folder)


def _files(folder: Path) -> list[Path]:
    """Those that the index consists of, besides meta.json."""
    segments = tantivy_segments(folder)
    return [path for path in folder.iterdir() if _is_of(segments, path.name)]


def drop(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _is_of(segments: dict[str, int | None], name: str) -> bool:
    """Whether the file belongs to one of the segments; of deletions only those in force do."""
    segment, _, kind = name.partition(".")
    return segment in segments and not (kind.endswith("del") and kind != f"{segments[segment]}.del")
