"""A large knowledge base, which takes minutes to build and can be kept between runs."""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path

from benchmarks.options import Options
from benchmarks.report import note, watched
from benchmarks.stage import built

# Files of tantivy that are never written again once they are there.
_SEALED = (".idx", ".term", ".pos", ".fast", ".fieldnorm", ".store")


@cache
def large(options: Options, count: int) -> Path:
    """The folder of one of `count` chunks, to be changed at will: a copy of the one below
    `options.kept` if given, which is built if an earlier run has not. The vector index is left out
    of the copy, for whoever opens it to make it as it is made now."""
    if options.kept is None:
        return built(options, count)
    folder = options.kept / "indexes" / f"size-{count}"
    if not (folder / "whole").exists():
        folder = built(options, count, options.kept)
        (folder / "whole").touch()
    with watched() as copying:
        copy = _copied(folder, options.work / "copies" / folder.name)
    note(f"{count:,} chunks: copied in {copying.seconds:.1f} s from what an earlier run kept")
    return copy


def _copied(folder: Path, copy: Path) -> Path:
    for path in sorted(folder.rglob("*")):
        target = copy / path.relative_to(folder)
        if path.is_dir() or path.suffix in (".faiss", ".lock", ".tmp", ".npy"):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in _SEALED:
            _linked(path, target)
        else:
            shutil.copy(path, target)
    return copy


def _linked(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:  # another disk
        shutil.copy(path, target)
