"""What a run of the benchmarks is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """`scale` and `questions` are JSON lines with "text" and "question"; without them both are made
    up. `cache` keeps embedded texts between runs, `work` is this run's and is deleted after it.
    `large` chunks are what `million` and `busy` are measured at, kept below `kept` if given."""

    scale: Path | None
    questions: Path | None
    cache: Path
    work: Path
    sizes: tuple[int, ...]
    embedded: int
    rounds: int
    large: int
    kept: Path | None
