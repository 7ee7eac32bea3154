"""How long a person waits for the command line before it does anything."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.options import Options
from benchmarks.report import each, figure, p50, title

_RUNS = 10
_COMMAND = "import sys; sys.argv = ['rag', '--help']; from rag.cli import main; main()"


def run(_options: Options) -> None:
    title("Starting the command line")
    python, rag = [], []
    for _ in range(_RUNS):
        python += each(lambda _: _start("pass"), [0])
        rag += each(lambda _: _start(_COMMAND), [0])
    figure("python -c pass", p50(python) / 1000, "s")
    figure("rag --help", p50(rag) / 1000, "s", "< 0.3")
    figure("rag --help over python -c pass", p50(rag) / p50(python), "x")


def _start(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
