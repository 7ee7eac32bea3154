"""Files that went beyond a limit, remembered for a day, so that nobody waits for them every time.

What is kept tells content, limits and version apart: a changed file or a raised limit is tried at
once. It is a cache: losing it costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from rag.load import LOADER_VERSION
from rag.load.limits import Limits
from rag.load.process import EndedError

KEPT_SECONDS = 86_400.0
_REMEMBERED = ("time", "memory", "output", "")  # "": it brought its reader down


class Beyond:
    """Safe to use from several threads and processes. Without a folder nothing is remembered."""

    def __init__(
        self, folder: Path | None, limits: Limits, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._of = json.dumps([LOADER_VERSION, asdict(limits)], sort_keys=True).encode()
        self._clock = clock

    def told(self, data: bytes) -> EndedError | None:
        """How reading these bytes ended, if it did not end well less than a day ago."""
        if self._folder is None or not self._folder.exists():
            return None
        path = self._folder / self._key(data)
        try:
            noted = json.loads(path.read_text())
            if 0 <= self._clock() - noted["at"] < KEPT_SECONDS:
                return EndedError(noted["why"], noted["status"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        with suppress(OSError):
            path.unlink()
        return None

    def remember(self, data: bytes, ended: EndedError) -> None:
        """What was no fault of the file is not."""
        if self._folder is None or ended.why not in _REMEMBERED:
            return
        noted = {"at": self._clock(), "why": ended.why, "status": ended.status}
        with suppress(OSError):  # then it is tried again
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / self._key(data)).write_text(json.dumps(noted))

    def _key(self, data: bytes) -> str:
        return hashlib.sha256(self._of + hashlib.sha256(data).digest()).hexdigest()
