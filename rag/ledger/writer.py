"""The ledger's own thread, so that an answer waits for no database."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from rag.ledger.entries import Entry

T = TypeVar("T")

_log = logging.getLogger("rag")


class Writer:
    """Writes entries by `settle`, all that wait at once. What cannot be written is logged."""

    def __init__(self, settle: Callable[[Sequence[Entry]], None]) -> None:
        self._settle = settle
        self._waiting: deque[Entry] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")

    def submit(self, work: Callable[[], T]) -> Future[T]:
        return self._thread.submit(work)

    def write(self, entry: Entry) -> Future[None]:
        """Never fails: an answer is not lost because its cost cannot be written."""
        self._waiting.append(entry)
        try:
            return self._thread.submit(self._write_waiting)
        except RuntimeError:  # closed, or Python is ending
            self._write_waiting()
            done: Future[None] = Future()
            done.set_result(None)
            return done

    def close(self) -> None:
        """Returns when all is written."""
        self._thread.shutdown(wait=True)
        self._write_waiting()

    def _write_waiting(self) -> None:
        entries = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if len(entries) > 1:
            try:
                self._settle(entries)
            except Exception as error:  # noqa: BLE001 - as below; tried again one by one
                _log.warning("The ledger tries each call alone, since together: %s", error)
            else:
                return
        for entry in entries:
            try:
                self._settle([entry])
            except Exception as error:  # noqa: BLE001 - of any driver; the answer is worth more
                _log.error("The ledger could not write down %s: %s", entry, error)
