"""The process that reads files, one at a time, for the pool in `pool`.

It starts with its limits set, takes requests from its standard input and answers on what was its
standard output; what a library prints goes nowhere. It ends when nobody has asked for a while,
when it has read many files or grown large, and at once when the one who asked is gone.
"""

from __future__ import annotations

import fcntl
import importlib
import io
import os
import resource
import select
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rag.errors import LoadError
from rag.load.limits import Limits
from rag.load.messages import LENGTH, content_message, error_message, framed, packed, unpacked

_MAX_FILES = 2_000
_IDLE_SECONDS = 60.0
_FULL = 0.5  # of its memory: then it ends after the file it has read


def main(reader: str, memory: int, lifeline: int, idle: float = _IDLE_SECONDS) -> None:
    """`reader` is `module:function` with the signature of `rag.load.load`; `memory` in bytes;
    `lifeline` the reading end of a pipe to which who asks writes nothing as long as he lives."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asks
    _end_with_asker(lifeline)
    _limit(memory)
    requests, replies = _take_pipes()
    module, _, name = reader.partition(":")
    load = getattr(importlib.import_module(module), name)
    _send(replies, {"ready": True})
    for served in range(1, _MAX_FILES + 1):
        if not select.select([requests], [], [], idle)[0]:
            return
        header, data = _frame(requests), _frame(requests)
        if header is None or data is None:
            return
        reply = _answer(load, header, data)
        last = "memory" in reply or served == _MAX_FILES or _resident() > memory * _FULL
        _send(replies, reply | {"last": last})
        if last:
            return


def _limit(memory: int) -> None:
    """Of private memory: files that are only mapped, as models are, do not count."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _take_pipes() -> tuple[io.FileIO, io.FileIO]:
    """Standard input and output for our own use; for all others they are empty and swallowed."""
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)
    return io.FileIO(requests, "r"), io.FileIO(replies, "w")


def _send(replies: io.FileIO, message: Mapping[str, Any]) -> None:
    view = memoryview(framed(packed(message)))
    while view:
        view = view[replies.write(view) :]


def _frame(requests: io.FileIO) -> bytes | None:
    """None at the end of the requests."""
    length = _exactly(requests, LENGTH)
    return None if length is None else _exactly(requests, int.from_bytes(length, "big"))


def _exactly(requests: io.FileIO, size: int) -> bytes | None:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = requests.readinto(view)
        if not count:
            return None
        view = view[count:]
    return bytes(data)


def _answer(load: Callable[..., Any], header: bytes, data: bytes) -> dict[str, Any]:
    request = unpacked(header)
    name, max_bytes = request["name"], request["max_bytes"]
    try:
        content = load(Path(name), data, max_bytes=max_bytes, limits=Limits(**request["limits"]))
        return {"content": content_message(content)}
    except MemoryError:
        return {"memory": True}
    except LoadError as error:
        return {"error": error_message(error)}
    except ImportError as error:
        told = LoadError(f"{name} cannot be read here: {error}.", "Install what is missing.")
        return {"error": error_message(told)}


def _end_with_asker(lifeline: int) -> None:
    """Nothing is ever written there: a signal from this pipe means that its other end is closed,
    and its default action ends us, even within a library that never returns."""
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(lifeline, 0)  # a hang-up is always told
    if poll.poll(0):
        sys.exit()


def _resident() -> int:
    """Bytes; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * resource.getpagesize()
