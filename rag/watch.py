"""Follows folders: an ingest at the start, and one after each quiet moment that follows a change.

What changed is never told to the ingest, which looks at everything anew and does only what is new:
so no dance of renames, and no change during an ingest, is missed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rag.errors import RagError
from rag.ingest import Report

TICK = 0.25  # seconds between two looks at the clock and at the watched paths themselves
_MOST_PATIENCE = 10  # quiet moments to wait for while changes go on
_TEMPORARY = (".tmp", ".temp", ".swp", ".swx", ".part", ".crdownload", "~")
_NOT_DOCUMENTS = (".", "~$", "#")
_NOT_FOLDERS = {"node_modules", "__pycache__"}
_VIMS_PROBE = "4913"

Ingests = Callable[[Sequence[Path]], Report]
Look = tuple[tuple[int, ...] | None, ...]


class Changes(Protocol):
    """Yields the paths that changed below the folders since it yielded last, at least once a TICK,
    then perhaps none. It watches from the first time it yields. Raises OSError if it cannot."""

    def __call__(
        self, folders: Sequence[Path], *, polling: bool, stop: threading.Event
    ) -> Generator[set[str]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Who hears what happens."""

    report: Callable[[Report], None] = lambda _report: None
    error: Callable[[RagError], None] = lambda _error: None
    notice: Callable[[str], None] = lambda _notice: None


def watch(
    paths: Sequence[Path],
    ingest: Ingests,
    *,
    stop: threading.Event | None = None,
    told: Told | None = None,
    ignore: Sequence[Path] = (),
    debounce: float = 1.0,
    retry: float = 5.0,
    polling: bool = False,
    changes: Changes | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Calls `ingest` with those of `paths` that are there: at once, then after changes, until
    `stop` is set or Ctrl-C is pressed.

    An ingest waits until nothing has changed for `debounce` seconds, or ten times that since the
    first change. After an error that may pass (`retryable`: another process writes) it is tried
    again after `retry` seconds, after any other with the next change; errors are told. A path that
    goes is told, left alone, and ingested again when it is back. `ignore` names folders whose
    changes do not count, as that of the indexes. `polling` looks at all files again and again, for
    network folders whose changes are not announced.
    """
    stop = stop or threading.Event()
    watching = _Watching(
        [path.expanduser().absolute() for path in paths],
        ingest,
        told or Told(),
        [path.expanduser().resolve() for path in ignore],
        debounce,
        retry,
        clock,
    )
    try:
        watching.follow(stop, polling, changes or watchfiles_changes)
    except KeyboardInterrupt:
        stop.set()


class _Watching:
    """When to ingest next, and which paths there are."""

    def __init__(
        self,
        paths: Sequence[Path],
        ingest: Ingests,
        told: Told,
        ignore: Sequence[Path],
        debounce: float,
        retry: float,
        clock: Callable[[], float],
    ) -> None:
        self._paths = paths
        self._ingest = ingest
        self._told = told
        self._ignore = ignore
        self._debounce = debounce
        self._retry = retry
        self._clock = clock
        self._present: list[Path] | None = None
        self._first = self._last = self._not_before = 0.0
        self._changed = False

    def follow(self, stop: threading.Event, polling: bool, changes: Changes) -> None:
        """Watches anew whenever a watched path comes, goes or is replaced by another."""
        self._due_now()
        while not stop.is_set():
            look = _look(self._paths)
            self._tell_of(look)
            folders = [path.resolve() for path in self._paths if path.is_dir()]
            try:
                with closing(changes(folders, polling=polling, stop=stop)) as batches:
                    self._until_replaced(look, folders, batches, stop)
            except OSError as error:
                if not polling:
                    polling = True
                    self._told.notice(f"Changes are not announced ({error}): looking for them.")
                else:  # a folder that went between two looks
                    stop.wait(TICK)

    def _until_replaced(
        self,
        look: Look,
        folders: Sequence[Path],
        batches: Generator[set[str]],
        stop: threading.Event,
    ) -> None:
        for batch in batches:
            if stop.is_set():
                return
            now = _look(self._paths)
            if _folders(now) != _folders(look) or batch.intersection(map(str, folders)):
                self._note_change()  # and whoever watched the old folder does not see the new one
                return
            if now != look or any(_counts(path, folders, self._ignore) for path in batch):
                self._note_change()
            look = now
            if self._is_due():
                self._run()

    def _tell_of(self, look: Look) -> None:
        present = [path for path, seen in zip(self._paths, look, strict=True) if seen is not None]
        if self._present is not None or len(present) < len(self._paths):
            before = self._paths if self._present is None else self._present
            for path in self._paths:
                if path in before and path not in present:
                    self._told.notice(f"{path} is gone; what was ingested from it is kept.")
                elif path not in before and path in present:
                    self._told.notice(f"{path} is back.")
        self._present = present

    def _note_change(self) -> None:
        self._last = self._clock()
        if not self._changed:
            self._first = self._last
        self._changed = True

    def _due_now(self) -> None:
        self._changed = True
        self._first = self._last = self._clock() - self._debounce

    def _is_due(self) -> bool:
        now = self._clock()
        quiet = now - self._last >= self._debounce
        long = now - self._first >= self._debounce * _MOST_PATIENCE
        return self._changed and (quiet or long) and now >= self._not_before

    def _run(self) -> None:
        self._changed = False
        if not self._present:
            return
        try:
            report = self._ingest(self._present)
        except RagError as error:
            self._told.error(error)
            if error.retryable:
                self._due_now()
                self._not_before = self._clock() + self._retry
        except Exception as error:  # noqa: BLE001 - whatever it was, the next change is a new try
            self._told.error(RagError(f"The ingest failed: {type(error).__name__}: {error}."))
        else:
            self._told.report(report)


def _counts(changed: str, folders: Sequence[Path], ignore: Sequence[Path]) -> bool:
    """Whether a change of this path can be one of a document."""
    path = Path(changed)
    if any(path.is_relative_to(folder) for folder in ignore):
        return False
    root = next((folder for folder in folders if path.is_relative_to(folder)), Path("/"))
    return not any(
        part.startswith(_NOT_DOCUMENTS)
        or part.lower().endswith(_TEMPORARY)
        or part in _NOT_FOLDERS
        or part == _VIMS_PROBE
        for part in path.relative_to(root).parts
    )


def _look(paths: Sequence[Path]) -> Look:
    """What each path is: None if it is not there; files with time and size, for they are not
    watched in any other way: what an editor leaves behind is often another file of that name."""
    return tuple(map(_seen, paths))


def _seen(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
        if path.is_dir():
            return (status.st_dev, status.st_ino)
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)


def _folders(look: Look) -> Look:
    """The look, but for what changes when a file is written."""
    return tuple(seen if seen is None or len(seen) == 2 else () for seen in look)


def watchfiles_changes(
    folders: Sequence[Path], *, polling: bool, stop: threading.Event
) -> Generator[set[str]]:
    """By watchfiles; without a folder it only keeps time."""
    if not folders:
        while not stop.is_set():
            yield set()
            stop.wait(TICK)
        return
    import watchfiles

    milliseconds = int(TICK * 1000)
    for batch in watchfiles.watch(
        *folders,
        watch_filter=None,
        debounce=milliseconds,
        step=milliseconds // 5,
        rust_timeout=milliseconds,
        yield_on_timeout=True,
        stop_event=stop,
        force_polling=polling or None,
        ignore_permission_denied=True,
    ):
        yield {path for _, path in batch}
