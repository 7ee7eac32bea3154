"""One process that reads files, as the one that asks sees it: started, asked, watched, ended."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import rag
from rag.errors import LoadError
from rag.load.limits import Limits
from rag.load.messages import LENGTH, MessageError, framed, unpacked

_START_SECONDS = 60.0
_TICK = 0.05  # seconds from one look at the memory of a reader to the next
_PIECE = 1 << 20
# A reader needs to find itself and its libraries, and a place for what it caches: no secrets.
_KEPT = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
_KEPT_PREFIXES = ("LC_", "XDG_")


class EndedError(Exception):
    """A reader is no more: `why` it was ended, or "" if it ended by itself with `status`."""

    def __init__(self, why: str, status: int = 0) -> None:
        super().__init__(why)
        self.why = why
        self.status = status


class Reader:
    """One process. It belongs to one thread at a time; only `stop` may come from another."""

    def __init__(self, reader: str, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._most_memory = 0
        self.used = False
        self.stopped = False
        theirs, self._lifeline = os.pipe()
        home = str(Path(rag.__file__).parents[1])
        code = (
            f"import sys; sys.path[:] = {[home, *sys.path]!r}\n"
            f"from rag.load.worker import main; main({reader!r}, {limits.memory}, {theirs})"
        )
        try:
            # -S: without site, which would search for what we know
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-I", "-S", "-X", "utf8", "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=_environment(),
                pass_fds=(theirs,),
            )
        except OSError as error:
            os.close(self._lifeline)
            raise LoadError(
                f"No process could be started to read files: {error.strerror}.",
                "Check how many processes and how much memory are allowed.",
            ) from None
        finally:
            os.close(theirs)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests = self._process.stdin.fileno()
        self._replies = self._process.stdout.fileno()
        os.set_blocking(self._requests, False)
        os.set_blocking(self._replies, False)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, header: bytes, data: bytes) -> dict[str, Any]:
        """The reply. Raises EndedError, and MessageError for what is none."""
        try:
            if not self.used:
                self._start()
            self.used = True
            until = self._clock() + self._limits.seconds
            for part in (framed(header), len(data).to_bytes(LENGTH, "big"), data):
                self._send(memoryview(part), until)
            return self._reply(until, 4 * self._limits.text + 64 * _PIECE)
        except EndedError as ended:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            if self.stopped:
                raise EndedError("stopped") from None
            if not ended.why and self._most_memory > 0.7 * self._limits.memory:
                raise EndedError("memory") from None  # libraries in C die of it
            raise

    def _start(self) -> None:
        try:
            ready = self._reply(self._clock() + _START_SECONDS, _PIECE).get("ready")
        except (EndedError, MessageError):
            ready = False
        if not ready:
            raise EndedError("start")

    def stop(self) -> None:
        """Whoever waits for a reply gets EndedError."""
        self.stopped = True
        self._process.kill()

    def end(self) -> None:
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _send(self, view: memoryview, until: float) -> None:
        while view:
            self._wait(self._requests, select.POLLOUT, until)
            try:
                view = view[os.write(self._requests, view[:_PIECE]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._dead() from None

    def _reply(self, until: float, most: int) -> dict[str, Any]:
        size = int.from_bytes(self._receive(LENGTH, until), "big")
        if size > most:
            raise EndedError("output")
        return unpacked(self._receive(size, until))

    def _receive(self, size: int, until: float) -> bytearray:
        data = bytearray()
        while len(data) < size:
            self._wait(self._replies, select.POLLIN, until)
            try:
                piece = os.read(self._replies, min(_PIECE, size - len(data)))
            except BlockingIOError:
                continue
            if not piece:
                raise self._dead()
            data += piece
        return data

    def _wait(self, pipe: int, event: int, until: float) -> None:
        poll = select.poll()
        poll.register(pipe, event)
        while True:
            left = until - self._clock()
            if left <= 0:
                raise EndedError("time")
            if poll.poll(1000 * min(left, _TICK)):
                return
            self._most_memory = max(self._most_memory, self._resident())
            if self._most_memory > self._limits.memory:
                raise EndedError("memory")

    def _resident(self) -> int:
        """Bytes; 0 where the system does not tell."""
        try:
            pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        except (OSError, IndexError):
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def _dead(self) -> EndedError:
        """It closed a pipe: it has ended, or had better."""
        try:
            return EndedError("", self._process.wait(1))
        except subprocess.TimeoutExpired:
            self._process.kill()
            return EndedError("", self._process.wait())


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or name.startswith(_KEPT_PREFIXES)
    }
