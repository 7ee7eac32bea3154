"""Pages that are pictures, read with the `ocr` extra, and what is to be said about it."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

from rag.load.build import CELL_SEPARATOR
from rag.load.pages.printed import Line
from rag.ocr import INSTALL, Ocr, ReadLine

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_WIDTH = 595.0  # points; what pages are taken to be wide
_LARGE = 1.35  # times the usual height: a heading; smaller differences are those of characters
_SHOWN_RANGES = 20

_opening = threading.Lock()
_opened: Ocr | None = None


class Reads(Protocol):
    """What is needed of `rag.ocr.Ocr`."""

    def lines(self, picture: Picture) -> tuple[tuple[ReadLine, ...], tuple[int, int]]: ...


def shared_ocr() -> Ocr:
    """One for the process, opened at the first page; it takes a second and 400 MB."""
    global _opened  # noqa: PLW0603 - once a process
    with _opening:
        _opened = _opened or Ocr()
        return _opened


class Scans:
    """The pages of one file that have to be read from their picture.

    No page is begun that would not be done within `seconds` of the first, if it took as long as the
    longest so far. Without `open_ocr` all are left out. What was read, what was not, and what it
    took is told by `notes`.
    """

    def __init__(
        self,
        open_ocr: Callable[[], Reads] | None,
        *,
        why_not: str = "",
        seconds: float = float("inf"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_ocr = open_ocr
        self._why_not = why_not
        self._limit = seconds
        self._clock = clock
        self._started: float | None = None
        self._seconds = 0.0
        self._longest = 0.0
        self.read: list[int] = []
        self.unread: list[int] = []

    @classmethod
    def open(cls, *, wanted: bool, seconds: float) -> Scans:
        """With the extra, if it is installed and `wanted`."""
        if not wanted:
            return cls(None, why_not="Reading pictures is turned off: set RAG_OCR=true.")
        if not Ocr.available():
            return cls(None, why_not=f"Have them read with: {INSTALL}")
        return cls(shared_ocr, seconds=seconds)

    def lines(self, page: int, render: Callable[[], Picture]) -> list[Line]:
        """What page number `page` says, as if it had been printed; `render` draws it."""
        begun = self._clock()
        if self._started is None:
            self._started = begun
        if self._open_ocr is None or begun - self._started + self._longest >= self._limit:
            self.unread.append(page)
            return []
        found, (width, height) = self._open_ocr().lines(render())
        self.read.append(page)
        took = self._clock() - begun
        self._seconds += took
        self._longest = max(self._longest, took)
        return _printed(found, width, height)

    @property
    def lacking(self) -> str:
        """What `lacks` says, if a page was left out for it; else empty."""
        return self.lacks if self.unread else ""

    @property
    def lacks(self) -> str:
        """What a page may be left out for, now."""
        return f"more than {self._limit:g} s" if self._open_ocr else "ocr"

    @property
    def hint(self) -> str:
        """What to do about pages that were not read."""
        if self._open_ocr is None:
            return self._why_not
        return "Split the file, or raise RAG_MAX_PARSE_SECONDS."

    @property
    def notes(self) -> tuple[str, ...]:
        notes = []
        if self.read:
            count = len(self.read)
            notes.append(
                f"{count} scanned page{'s' * (count > 1)} read by OCR in {self._seconds:.1f} s"
            )
        if self.unread:
            one = len(self.unread) == 1
            late = " in the time there was" if self._open_ocr else ""
            notes.append(
                f"page{'s' * (not one)} {_ranges(self.unread)} {'is' if one else 'are'} scanned and"
                f" {'was' if one else 'were'} not read{late}. {self.hint}"
            )
        return tuple(notes)


def _ranges(pages: Iterable[int]) -> str:
    """`1-3, 7`."""
    runs = [
        [page for _, page in run]
        for _, run in groupby(enumerate(pages), key=lambda pair: pair[1] - pair[0])
    ]
    shown = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    more = [f"and {len(shown) - _SHOWN_RANGES} more"] if len(shown) > _SHOWN_RANGES else []
    return ", ".join([*shown[:_SHOWN_RANGES], *more])


def _printed(found: Sequence[ReadLine], width: int, height: int) -> list[Line]:
    """In points, lines that stand side by side as one, cells of it kept apart."""
    if not found:
        return []
    scale = _WIDTH / width
    usual = statistics.median(line.bottom - line.top for line in found)
    lines = []
    for beside in _side_by_side(found, usual):
        first, last = beside[0], beside[-1]
        size = statistics.median(line.bottom - line.top for line in beside)
        bottom = (height - max(line.bottom for line in beside)) * scale
        lines.append(
            Line(
                CELL_SEPARATOR.join(line.text for line in beside),
                first.left * scale,
                last.right * scale,
                bottom,
                bottom,
                (round(2 * size / usual) / 2 if size > _LARGE * usual else 1) * usual * scale,
            )
        )
    return lines


def _side_by_side(found: Sequence[ReadLine], usual: float) -> list[list[ReadLine]]:
    """From top to bottom; each row from left to right."""
    rows: list[list[ReadLine]] = []
    for line in sorted(found, key=lambda line: line.top + line.bottom):
        middle = (line.top + line.bottom) / 2
        above = (rows[-1][0].top + rows[-1][0].bottom) / 2 if rows else middle - usual
        if middle - above < usual / 2:
            rows[-1].append(line)
        else:
            rows.append([line])
    return [sorted(row, key=lambda line: line.left) for row in rows]
