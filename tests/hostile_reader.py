"""What a reader runs in tests in place of `rag.load.load`: it does what the file says."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

from rag.errors import FileTooLargeError
from rag.load.limits import Limits
from rag.types import Content, Element

leaked: list[bytes] = []


def load(path: Path, data: bytes, *, max_bytes: int, limits: Limits) -> object:
    """Runs in the reader: does what the file says, as a broken library might."""
    match data.decode():
        case "exit 0":
            os._exit(0)
        case "exit 7":
            os._exit(7)
        case "segfault":
            ctypes.string_at(0)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            while True:
                pass
        case "hang in C":
            ctypes.CDLL(None).pause()
        case "hoard":
            return [bytearray(10**6) for _ in range(10**6)]
        case "leak":
            leaked.append(b"x" * (300 * 2**20))
        case "print":
            print("not for you")  # noqa: T201
            os.write(1, b"nor this")
        case "raise":
            raise ValueError("unheard of")
        case "leave":
            sys.exit(0)
        case "nonsense":
            return whole("x")[1:]
        case "much":
            text = "x" * 300_000_000
            return Content(type="txt", title="", text=text, elements=())
        case "too large":
            raise FileTooLargeError("Too large.", "Split it.")
        case "environment":
            return whole(" ".join(sorted(os.environ)))
        case "pid":
            return whole(str(os.getpid()))
        case "missing":
            raise ImportError("No module named 'x'")
        case "outside":
            return Content(type="txt", title="", text="x", elements=(Element("text", 0, 99),))
    return whole("read")


def whole(text: str) -> Content:
    return Content(
        type="txt", title="t", text=text, elements=(Element("text", 0, len(text), ("a", "b")),)
    )
