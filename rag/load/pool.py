"""Reads files in processes of their own, so that no file can harm the one that asks.

A reader has its limits of time, memory and output; what goes beyond them is ended and reported as
that file's error, and the next file gets a new reader. Readers are started when a file first needs
one, are kept for the next, and end by themselves when nothing has come for a while.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rag.errors import DamagedFileError, FileTooLargeError, LoadError
from rag.load import admitted
from rag.load import load as load_here
from rag.load.beyond import Beyond
from rag.load.build import clean
from rag.load.limits import Limits
from rag.load.memory import Passing
from rag.load.messages import MessageError, content_of, error_of, packed
from rag.load.process import EndedError, Reader
from rag.types import Content

_READER = "rag.load:load"
_ELEMENT_BYTES = 150


class ReaderPool:
    """`load` is that of `rag.load`, in one of at most `workers` processes. Safe to call from
    several threads: who comes when all are busy waits. With no workers files are read in this
    process, without limits of time and memory."""

    def __init__(
        self,
        limits: Limits = Limits(),
        *,
        workers: int = 2,
        reader: str = _READER,
        beyond: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`beyond` is a folder in which is kept for a day which files went beyond a limit."""
        self._limits = limits
        self._reader = reader
        self._clock = clock
        self._free = threading.BoundedSemaphore(workers) if workers else None
        self._lock = threading.Lock()
        self._passing = Passing()
        self._beyond = Beyond(beyond, limits)
        self._idle: list[Reader] = []
        self._busy: set[Reader] = set()

    def load(self, path: Path, data: bytes | None = None, *, max_bytes: int) -> Content:
        """Raises LoadError: what `rag.load.load` raises, FileTooLargeError for a file that needs
        more memory or holds more text than allowed, DamagedFileError for one that ended its
        reader, and a bare LoadError for one that took too long."""
        if self._free is None:
            return load_here(path, data, max_bytes=max_bytes, limits=self._limits)
        data = admitted(path, data, max_bytes)[1]
        self._passing.passed(len(data))
        before = self._beyond.told(data)
        if before is not None:
            error = self._told(clean(path.name), before)
            raise type(error)(error.message, f"{error.hint} {_AGAIN}")
        with self._free:
            content = self._read(path, data, max_bytes)
        self._passing.passed(_ELEMENT_BYTES * len(content.elements) + len(content.text))
        return content

    def close(self) -> None:
        """Ends all readers; a file being read fails. The next `load` starts anew."""
        with self._lock:
            idle, self._idle = self._idle, []
            for reader in self._busy:
                reader.stop()
        for reader in idle:
            reader.end()

    @property
    def pids(self) -> list[int]:
        """Of the readers there are."""
        with self._lock:
            return sorted(reader.pid for reader in (*self._idle, *self._busy))

    def _read(self, path: Path, data: bytes, max_bytes: int) -> Content:
        name = clean(path.name)
        request = {
            "name": str(path),
            "max_bytes": max_bytes,
            "limits": asdict(self._limits),
        }
        while True:
            reader = self._taken()
            used, keep = reader.used, False
            try:
                reply = reader.ask(packed(request), data)
                keep = not reply["last"]
                return _content(reply, name, self._limits)
            except EndedError as ended:
                if used and not ended.why and not ended.status:
                    continue  # it had just gone to rest
                self._beyond.remember(data, ended)
                raise self._told(name, ended) from None
            except (MessageError, KeyError):
                keep = False
                raise DamagedFileError(
                    f"{name} confused its reader, whose answer makes no sense.", _MEND
                ) from None
            finally:
                self._give_back(reader, keep=keep)

    def _taken(self) -> Reader:
        with self._lock:
            while self._idle:
                reader = self._idle.pop()
                if reader.alive:
                    break
                reader.end()
            else:
                reader = Reader(self._reader, self._limits, self._clock)
            self._busy.add(reader)
            return reader

    def _give_back(self, reader: Reader, *, keep: bool) -> None:
        with self._lock:
            self._busy.discard(reader)
            keep = keep and not reader.stopped
            if keep:
                self._idle.append(reader)
        if not keep:
            reader.end()

    def _told(self, name: str, ended: EndedError) -> LoadError:
        match ended.why:
            case "time":
                return LoadError(
                    f"{name} could not be read within {self._limits.seconds:g} seconds.",
                    "Split it, or raise RAG_MAX_PARSE_SECONDS.",
                )
            case "memory":
                return _too_much_memory(name, self._limits)
            case "output":
                return FileTooLargeError(
                    f"{name} holds more than {self._limits.text / 1e6:g} MB of text.",
                    "Split it, or raise RAG_MAX_TEXT_MB.",
                )
            case "start":
                return LoadError(
                    f"{name} was not read: the process that reads files did not start.",
                    "See what is wrong with: python -c 'import rag.load.worker'",
                )
            case "stopped":
                return LoadError(f"{name} was not read: reading was stopped.", "Ingest it again.")
        return DamagedFileError(
            f"{name} brought down the process that read it ({_status(ended.status)}).", _MEND
        )


_AGAIN = "Told again without reading it: it is tried anew after a day, or when a limit changes."
_MEND = "Open it in its own program and save it again, or leave it out."


def _content(reply: dict[str, Any], name: str, limits: Limits) -> Content:
    if "memory" in reply:
        raise _too_much_memory(name, limits)
    if "error" in reply:
        raise error_of(reply["error"])
    return content_of(reply["content"])


def _too_much_memory(name: str, limits: Limits) -> FileTooLargeError:
    return FileTooLargeError(
        f"{name} needs more than {limits.memory / 2**20:.0f} MB of memory to be read.",
        "Split it, or raise RAG_MAX_PARSE_MB.",
    )


def _status(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    with suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"
