"""A large knowledge base, which takes minutes to build and can be kept between runs."""

from __future__ import annotations

from pathlib import Path

from benchmarks.options import Options
from benchmarks.report import note
from benchmarks.stage import built


def large(options: Options, count: int) -> Path:
    """The folder of one of `count` chunks: below `options.kept` if given, from an earlier run."""
    if options.kept is None:
        return built(options, count)
    folder = options.kept / "indexes" / f"size-{count}"
    if not (folder / "whole").exists():
        folder = built(options, count, options.kept)
        (folder / "whole").touch()
    else:
        note(f"{count:,} chunks: kept by an earlier run")
    return folder
