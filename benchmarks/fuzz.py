"""python -m benchmarks.fuzz [--count N] [--seed N] [--keep DIR]

Damaged, mislabelled and absurd variants of files of every type, through a real ingest whose files
are read by the pool: it must go on to the end, keep to its limits of time and memory, and say of
each file that is not read why. Ends with 1 if a limit was broken.
"""

from __future__ import annotations

import argparse
import gc
import io
import os
import random
import shutil
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.report import figure, note, title
from benchmarks.unchanged import HashEmbedder
from rag.config import Settings
from rag.embed import Choice
from rag.engine import Engine
from rag.errors import LoadError
from rag.ingest import Plan, Report
from rag.load import SUPPORTED_TYPES
from rag.load.limits import Limits
from rag.load.memory import give_back, keep_together
from rag.load.pool import ReaderPool
from rag.types import Content

KNOWLEDGE = Path(__file__).parent.parent / "knowledge"
LIMITS = Limits(seconds=20, memory=1024 * 2**20, text=20_000_000, ocr=False)
GROWTH = 200 * 2**20  # bytes, of the ingesting process: what it has not given back
GRACE = 10.0  # seconds: to start a reader, and to end one
_MAX_BYTES = 20_000_000
_AT_ONCE = 250  # files of one ingest
_HUGE = (b"0", b"-1", b"65536", b"2147483648", b"99999999999999999999", b"1e999", b"NaN")
_MADE = {
    "a.tsv": "名称\t价格\n网关\t1200\n".encode(),
    "a.jsonl": '{"q": "年假", "n": 1}\n{"q": "报销", "n": [1, 2]}\n'.encode(),
    "a.htm": "<table><tr><th>甲<td rowspan=2 colspan=3>乙</table><pre>x</pre>".encode("gb18030"),
    "b.txt": "第一章 总则\n\n本制度适用于全体员工。\n".encode("gb18030"),
    "c.txt": "Chapter 1\n\nwords\n".encode("utf-16"),
    "d.md": b"---\ntitle: t\n---\n# A\n\n> - x\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```\nc\n```\n",
}


# --- files ----------------------------------------------------------------------------------------


def samples() -> list[tuple[str, bytes]]:
    found = [(p.name, p.read_bytes()) for p in sorted(KNOWLEDGE.rglob("*")) if p.is_file()]
    return [*found, *_MADE.items(), *_pictures()]


def _pictures() -> list[tuple[str, bytes]]:
    from PIL import Image

    made = []
    for kind in ("PNG", "JPEG", "TIFF", "BMP", "WEBP"):
        file = io.BytesIO()
        Image.new("RGB", (40, 30), "white").save(file, kind)
        made.append((f"a.{kind.lower()}", file.getvalue()))
    return made


def variant(number: int, seed: int, of: Sequence[tuple[str, bytes]]) -> tuple[str, bytes]:
    """The same for the same number and seed."""
    name, data, generator = _chosen(number, seed, of)
    if zipfile.is_zipfile(io.BytesIO(data)) and generator.random() < 0.7:
        data = _inside_archive(data, generator)
    else:
        for _ in range(generator.choice((1, 1, 2, 5))):
            data = generator.choice(_CHANGES)(data, generator)
    return name, data[:_MAX_BYTES]


def _chosen(
    number: int, seed: int, of: Sequence[tuple[str, bytes]]
) -> tuple[str, bytes, random.Random]:
    """The name it will have, what it is made of, and the chance that makes it."""
    generator = random.Random(f"{seed}:{number}")
    name, data = generator.choice(of)
    stem, _, ending = name.rpartition(".")
    if generator.random() < 0.1:
        ending = generator.choice(SUPPORTED_TYPES)
    return f"{number}-{stem}.{ending}", data, generator


def _inside_archive(data: bytes, generator: random.Random) -> bytes:
    """Changes in an entry get past the checksums to the readers."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w", 8) as new:
        names = old.namelist()
        chosen = set(generator.sample(names, min(len(names), generator.choice((1, 1, 3)))))
        for name in names:
            entry = old.read(name)
            if name in chosen:
                entry = generator.choice(_CHANGES)(entry, generator)
            if name not in chosen or generator.random() < 0.95:
                new.writestr(name, entry)
    return file.getvalue()


def _stretch(data: bytes, generator: random.Random) -> tuple[int, int]:
    start = generator.randrange(len(data) + 1)
    return start, min(len(data), start + int(generator.paretovariate(0.5)))


def _flip(data: bytes, generator: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(generator.choice((1, 4, 32)) if changed else 0):
        changed[generator.randrange(len(changed))] = generator.randrange(256)
    return bytes(changed)


def _cut(data: bytes, generator: random.Random) -> bytes:
    return data[: generator.randrange(len(data) + 1)]


def _drop(data: bytes, generator: random.Random) -> bytes:
    start, end = _stretch(data, generator)
    return data[:start] + data[end:]


def _repeat(data: bytes, generator: random.Random) -> bytes:
    start, end = _stretch(data, generator)
    times = min(generator.choice((2, 10, 1000, 20_000)), 4_000_000 // max(1, end - start))
    return data[:start] + data[start:end] * times + data[end:]


def _insert(data: bytes, generator: random.Random) -> bytes:
    place = generator.randrange(len(data) + 1)
    piece = generator.choice(
        (generator.randbytes(64), bytes(4096), b"<div>" * 3000, b"[" * 5000, b"(" * 5000,
         b"\xed\xa0\x80", b"\xff\xfe", b'"', b"&lol;", b"<![CDATA[", b"]]>", b"%PDF-1.7\n",
         b"PK\x03\x04", b"\r\r\n\0", "\u202e\u0301".encode() * 500, b"a" * 1_000_000)
    )  # fmt: skip
    return data[:place] + piece + data[place:]


def _number(data: bytes, generator: random.Random) -> bytes:
    """A number in the text becomes one that nobody expects."""
    digits = [place for place, byte in enumerate(data[:1_000_000]) if 0x30 <= byte <= 0x39]
    if not digits:
        return _flip(data, generator)
    start = end = generator.choice(digits)
    while end < len(data) and 0x30 <= data[end] <= 0x39:
        end += 1
    return data[:start] + generator.choice(_HUGE) + data[end:]


def _shuffle(data: bytes, generator: random.Random) -> bytes:
    mark = generator.choice((b"\n", b">", b" obj", b","))
    parts = data.split(mark)
    generator.shuffle(parts)
    return mark.join(parts)


_CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip, _cut, _drop, _repeat, _insert, _number, _shuffle,
)  # fmt: skip


# --- the run --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Outcome:
    """`seconds` and `memory` (bytes) are the most that any file took; `ended` names the files that
    ended their reader, and why. `before`, `most` and `after` is the memory of this process (bytes):
    when the first knowledge base was closed, at its height, and when the last was closed."""

    report: Report = field(default_factory=Report)
    codes: Counter[str] = field(default_factory=Counter)
    ended: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    slowest: str = ""
    memory: int = 0
    before: int = 0
    most: int = 0
    after: int = 0

    @property
    def growth(self) -> int:
        return self.after - self.before

    @property
    def told(self) -> list[str]:
        """The names that the report has, whatever became of them."""
        failures = (*self.report.failed, *self.report.skipped)
        return [*self.report.added, *(failure.name for failure in failures)]


@dataclass(frozen=True, slots=True)
class _Variant:
    """A source of the ingest that is made when it is read, and watches its own reading."""

    name: str
    make: Callable[[], bytes]
    pool: ReaderPool
    outcome: Outcome

    @property
    def uri(self) -> str:
        return f"fuzz:{self.name}"

    def read(self) -> bytes:
        return self.make()

    def load(self, data: bytes) -> Content:
        before, started = set(self.pool.pids), time.monotonic()
        code = "read"
        try:
            return self.pool.load(Path(self.name), data, max_bytes=_MAX_BYTES)
        except LoadError as error:
            code = error.code
            if before - set(self.pool.pids) and not error.message.startswith("No process"):
                self.outcome.ended.append((self.name, error.message))
            raise
        finally:
            self._note(code, time.monotonic() - started)

    def _note(self, code: str, seconds: float) -> None:
        outcome = self.outcome
        outcome.codes[code] += 1
        if seconds > outcome.seconds:
            outcome.seconds, outcome.slowest = seconds, self.name
        for pid in self.pool.pids:
            outcome.memory = max(outcome.memory, _status(pid, "VmHWM"))


def fuzz(
    count: int,
    work: Path,
    *,
    seed: int = 1,
    limits: Limits = LIMITS,
    first: int = 0,
    base: int = 2_000,
) -> Outcome:
    """Ingests that many variants, `base` into a knowledge base in `work`. Raises what ends an
    ingest."""
    outcome, of = Outcome(), samples()
    pool = ReaderPool(limits, workers=1)

    def source(number: int) -> _Variant:
        return _Variant(
            _chosen(number, seed, of)[0], lambda: variant(number, seed, of)[1], pool, outcome
        )

    try:
        for start in range(first, first + count, base):
            folder = work / str(start)
            numbers = range(start, min(start + base, first + count))
            _ingest([source(number) for number in numbers], folder, outcome)
            shutil.rmtree(folder)
            outcome.after = _left()
            outcome.before = outcome.before or outcome.after
    finally:
        pool.close()
    outcome.most = _status(os.getpid(), "VmHWM")
    return outcome


def _ingest(sources: Sequence[_Variant], folder: Path, outcome: Outcome) -> None:
    settings = Settings(indexes=folder / "indexes", cache_dir=folder / "cache", ocr=False)
    engine = Engine(settings, choose=lambda *_: Choice(HashEmbedder(), "fuzz"))
    try:
        for start in range(0, len(sources), _AT_ONCE):
            report = engine.ingest_plan(Plan(sources[start : start + _AT_ONCE]))
            outcome.report.added += report.added
            outcome.report.failed += report.failed
            outcome.report.skipped += report.skipped
            outcome.report.chunks += report.chunks
            note(f"{len(outcome.told):,} files, {_status(os.getpid(), 'VmRSS') >> 20} MB")
    finally:
        engine.close()


def _left() -> int:
    """The memory of this process (bytes) without what it could give back."""
    gc.collect()
    give_back()
    return _status(os.getpid(), "VmRSS")


def _status(pid: int, name: str) -> int:
    """Bytes; 0 for a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first variant")
    parser.add_argument("--seconds", type=float, default=LIMITS.seconds, help="for one file")
    parser.add_argument("--keep", type=Path, help="where files that ended their reader are put")
    given = parser.parse_args()
    keep_together()  # as `rag ingest` does
    title(f"{given.count:,} damaged files through an ingest, seed {given.seed}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rag-fuzz-") as work:
        limits = replace(LIMITS, seconds=given.seconds)
        outcome = fuzz(given.count, Path(work), seed=given.seed, first=given.first, limits=limits)
    broken = _printed(outcome, given.count, time.monotonic() - started, limits)
    for name, message in outcome.ended:
        print(f"    {name}: {message}")
        if given.keep:
            given.keep.mkdir(parents=True, exist_ok=True)
            number = int(name.partition("-")[0])
            (given.keep / name).write_bytes(variant(number, given.seed, samples())[1])
    sys.exit(1 if broken else 0)


def _printed(outcome: Outcome, count: int, seconds: float, limits: Limits) -> bool:
    """Whether a limit was broken."""
    told, growth = len(set(outcome.told)), outcome.growth
    for code, number in outcome.codes.most_common():
        figure(code, number, "files")
    figure("files the report tells of", told, "", f">= {count}")
    figure("slowest file", outcome.seconds, "s", f"<= {limits.seconds + GRACE:g}")
    note(f"  {outcome.slowest}")
    figure("most memory of a reader", outcome.memory / 2**20, "MB", f"<= {limits.memory >> 20}")
    figure("chunks", outcome.report.chunks)
    figure("the ingesting process, at its height", outcome.most / 2**20, "MB")
    figure("the same, its first knowledge base closed", outcome.before / 2**20, "MB")
    figure("the same, its last knowledge base closed", outcome.after / 2**20, "MB")
    figure("its growth", growth / 2**20, "MB", f"<= {GROWTH >> 20}")
    figure("files that ended their reader", len(outcome.ended), "")
    figure("a file", 1000 * seconds / count, "ms")
    return (
        told != count
        or outcome.seconds > limits.seconds + GRACE
        or outcome.memory > limits.memory
        or growth > GROWTH
    )


if __name__ == "__main__":
    main()
