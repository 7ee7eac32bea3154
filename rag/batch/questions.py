"""The file of questions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rag.batch.fields import READERS, anything, fields_of, is_id
from rag.batch.report import Report
from rag.errors import InputError
from rag.types import Failed

_NOT_WHAT_IS_ASKED = {"caller", "session_id", "cache", "stream"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """`question` is None only in a line that is an `error`; `meta` is {} or {"meta": ...}."""

    number: int
    id: str
    question: str | None
    options: Mapping[str, Any]
    meta: Mapping[str, Any]
    error: Failed | None = None

    @property
    def digest(self) -> str:
        """Equal for lines that ask the same, in the same way."""
        options = {
            name: value
            for name, value in self.options.items()
            if value is not None and name not in _NOT_WHAT_IS_ASKED
        }
        asked = json.dumps([self.question, options], sort_keys=True, default=asdict)
        return hashlib.sha256(asked.encode()).hexdigest()[:32]


@contextmanager
def opened(questions: Path, output: Path) -> Iterator[BinaryIO]:
    if not questions.is_file():
        raise InputError(
            f"There is no file of questions {str(questions)!r}.",
            "Check the path. It is read twice, so that it cannot be a pipe.",
        )
    if output.exists() and output.samefile(questions):
        raise InputError("The answers would overwrite the questions.", "Name another output.")
    with questions.open("rb") as file:
        yield file


def compare(file: BinaryIO, options: Mapping[str, Any], done: dict[str, str]) -> Report:
    """Counts the questions, and takes out of `done` what is now asked otherwise.

    Raises InputError for an id that two lines have.
    """
    numbers: dict[str, int] = {}
    report = Report()
    for line in lines_of(file, options):
        if line.id in numbers:
            raise InputError(
                f"Lines {numbers[line.id]} and {line.number} of the questions have the same"
                f" id {line.id!r}.",
                "Give each its own; a line without an id has its number as id.",
            )
        numbers[line.id] = line.number
        if line.id in done and (line.error or done[line.id] != line.digest):
            del done[line.id]
        report.kept += line.id in done
    report.total = len(numbers)
    return report


def lines_of(file: BinaryIO, options: Mapping[str, Any]) -> Iterator[Line]:
    file.seek(0)
    for number, raw in enumerate(file, 1):
        text = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        if text.strip():
            yield _line(number, text, options)


def _line(number: int, raw: bytes, defaults: Mapping[str, Any]) -> Line:
    fields: dict[str, Any] = {}
    options: dict[str, Any] = {}
    failed = None
    try:
        fields = fields_of(raw)
        options = {n: r(n, fields[n]) for n, r in READERS.items() if fields.get(n) is not None}
    except InputError as error:
        message = f"Line {number} of the questions: {error.message}"
        failed = Failed(error.code, message, "Mend the line and start again.", error.retryable)
        fields = fields or anything(raw)
    question, name = fields.get("question"), fields.get("id")
    return Line(
        number=number,
        id=str(name) if is_id(name) else str(number),
        question=question if isinstance(question, str) else None,
        options={**defaults, **options},
        meta={"meta": fields["meta"]} if "meta" in fields else {},
        error=failed,
    )
