"""How figures are printed, and the statistics in them."""

from __future__ import annotations

import operator
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_HOLDS = {"<": operator.lt, "<=": operator.le, ">=": operator.ge, ">": operator.gt}


def title(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


def note(text: str) -> None:
    print(f"  {text}", flush=True)


def figure(name: str, value: float, unit: str = "", target: str = "") -> None:
    """One line. `target` is a comparison in the value's own unit, like "<= 5"."""
    verdict = ""
    if target:
        sign, least = target.split()
        verdict = f"target {target}: {'yes' if _HOLDS[sign](value, float(least)) else 'NO'}"
    print(f"  {name:<52} {value:>10.4g} {unit:<10} {verdict}".rstrip(), flush=True)


def p50(values: Iterable[float]) -> float:
    return statistics.median(values)


def p95(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.95 * len(values)))]


def each(work: Callable[[int], object], places: Iterable[int]) -> list[float]:
    """Milliseconds of every call."""
    taken = []
    for place in places:
        started = time.perf_counter()
        work(place)
        taken.append(1000 * (time.perf_counter() - started))
    return taken


@dataclass(slots=True)
class Watch:
    seconds: float = field(default=0.0)


@contextmanager
def watched() -> Iterator[Watch]:
    watch, started = Watch(), time.perf_counter()
    try:
        yield watch
    finally:
        watch.seconds = time.perf_counter() - started


def resident_mb(kind: str = "VmRSS") -> float:
    """Memory of this process (Linux): VmRSS now, of which RssAnon is its own and RssFile that of
    mapped files; VmHWM at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {kind}.")
