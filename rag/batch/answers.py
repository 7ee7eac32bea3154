"""The file of answers."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rag.batch.fields import anything
from rag.batch.questions import Line
from rag.batch.report import Ending
from rag.errors import BusyError, InputError
from rag.types import Failed, Finished, Held
from rag.wire import answer_json

_START = b'{"id": '  # of every line of answers


def record_of(line: Line, ending: Ending) -> dict[str, Any]:
    """A line of answers."""
    start = {"id": line.id, "question": line.question, "digest": line.digest, **line.meta}
    match ending:
        case Finished(answer):
            return start | answer_json(answer)
        case Held():
            return start | {"held": asdict(ending)}
        case Failed():
            return start | {"error": asdict(ending)}


@contextmanager
def locked(output: Path) -> Iterator[Answers]:
    from filelock import FileLock, Timeout

    path = output.resolve()  # a link stays one when the file is replaced
    if path.exists() and not path.is_file():
        raise InputError(f"{str(output)!r} is not a file.", "Name a file for the answers.")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{path}.lock", timeout=0):
            yield Answers(path)
    except Timeout:
        raise BusyError(
            f"Another batch is writing to {str(output)!r}.",
            "Wait until it is done, or name another output.",
        ) from None


class Answers:
    """The file of answers, while no other run may touch it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = 0
        self._is_whole = True

    def done(self) -> dict[str, str]:
        """The digests of what is answered or held, by id. Raises InputError for a foreign file."""
        done: dict[str, str] = {}
        for raw, name, digest in self._records():
            self._lines += 1
            self._is_whole = raw.endswith(b"\n")
            if digest is not None:
                done.setdefault(name, digest)
        return done

    @contextmanager
    def writing(self, done: Mapping[str, str]) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Leaves only the lines of `done`, then adds to them."""
        if self._lines != len(done) or not self._is_whole:
            self._rewrite(dict(done))
        with self._path.open("ab") as file:

            def write(record: dict[str, Any]) -> None:
                file.write(_json(record) + b"\n")
                file.flush()

            try:
                yield write
            finally:
                os.fsync(file.fileno())

    def _rewrite(self, wanted: dict[str, str]) -> None:
        fresh = self._path.with_name(f"{self._path.name}.new")
        with fresh.open("wb") as file:
            for raw, name, digest in self._records():
                if digest is not None and wanted.pop(name, None) == digest:
                    file.write(raw.rstrip(b"\n") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(self._path, fresh)
        fresh.replace(self._path)

    def _records(self) -> Iterator[tuple[bytes, str, str | None]]:
        """Each line, its id, and its digest if it need not be asked again."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                match anything(raw):
                    case {"id": str(name), "digest": str(digest), **rest}:
                        yield raw, name, digest if {"answer", "held"} & rest.keys() else None
                    case _ if not raw.endswith(b"\n") and _is_torn(raw):
                        yield raw, "", None
                    case _:
                        raise InputError(
                            f"Line {number} of {str(self._path)!r} is no answer of a batch.",
                            "Name another output, or take the line out.",
                        )


def _is_torn(raw: bytes) -> bool:
    """Whether it can be the beginning of a line of answers, whose writer was killed."""
    return raw.startswith(_START) or _START.startswith(raw)


def _json(record: dict[str, Any]) -> bytes:
    try:
        return json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a surrogate pair, which only escapes can write
        return json.dumps(record).encode()
