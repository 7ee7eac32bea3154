"""python -m benchmarks [NAME ...] [--scale FILE] [--questions FILE] ..."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import tempfile
from pathlib import Path

import platformdirs

from benchmarks.options import Options

NAMES = ("start", "ingest", "unchanged", "retrieval", "store", "lines", "ask", "gateway")
LARGE = ("million", "busy", "kinds")  # take long: only when named


def main() -> None:
    given = _arguments()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.platform()}")
    with tempfile.TemporaryDirectory(prefix="rag-benchmarks-") as folder:
        options = Options(
            scale=given.scale,
            questions=given.questions,
            cache=given.cache,
            work=Path(folder),
            sizes=tuple(given.sizes),
            embedded=given.embedded,
            rounds=given.rounds,
            large=given.large,
            kept=given.kept,
        )
        for name in given.names or NAMES:
            importlib.import_module(f"benchmarks.{name}").run(options)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(NAMES + LARGE)}")
    parser.add_argument("--scale", type=Path, help='JSON lines with "text"; else made-up texts')
    parser.add_argument("--questions", type=Path, help='JSON lines with "question"')
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--embedded", type=int, default=4_000, help="texts really embedded")
    parser.add_argument("--rounds", type=int, default=6, help="of the paired measurements")
    parser.add_argument("--large", type=int, default=1_000_000, help="for million and busy")
    parser.add_argument("--kept", type=Path, help="folder to keep the large knowledge base in")
    parser.add_argument(
        "--cache", type=Path, default=platformdirs.user_cache_path("rag") / "benchmarks"
    )
    given = parser.parse_args()
    unknown = set(given.names) - {*NAMES, *LARGE}
    if unknown:
        known = ", ".join(NAMES + LARGE)
        parser.error(f"there is no figure {', '.join(sorted(unknown))}; there are {known}")
    return given


if __name__ == "__main__":
    main()
