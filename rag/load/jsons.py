"""JSON and JSON Lines: one row for each item, member or line, as it stands in the source."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from rag.errors import DamagedFileError
from rag.load.build import Parsed, trimmed
from rag.types import Element

_decode = json.JSONDecoder().raw_decode
_SPACE = re.compile(r"[ \t\n\r]*")


def read(text: str, name: str) -> Parsed:
    """A row for each item of the list, or each member of the object; a member that is a list of
    objects gives one row for each of those, its key as their heading. A member `title` names the
    document. Raises DamagedFileError with line and column where the JSON breaks."""
    title = ""
    elements = []
    try:
        for key, start, value_start, end in _entries(text, 0, whole=True):
            value, _ = _decode(text, value_start)
            if key == "title" and isinstance(value, str):
                title = " ".join(value.split())
            if key and isinstance(value, list) and any(isinstance(v, dict) for v in value):
                inner = _entries(text, value_start)
                elements += [Element("row", s, e, (key,)) for _, s, _, e in inner]
            else:
                elements.append(Element("row", start, end))
    except json.JSONDecodeError as error:
        raise _damaged(name, error.lineno, error.colno, error.msg) from None
    return Parsed(text, tuple(elements), title)


def read_lines(text: str, name: str) -> Parsed:
    """Raises DamagedFileError with line and column of the first line that is not JSON."""
    elements = []
    for number, line in enumerate(re.finditer(r"[^\n]*\n?", text), 1):
        start, end = trimmed(text, *line.span())
        if start == end:
            continue
        try:
            json.loads(text[start:end])
        except json.JSONDecodeError as error:
            column = start - line.start() + error.colno
            raise _damaged(name, number, column, error.msg) from None
        elements.append(Element("row", start, end))
    return Parsed(text, tuple(elements))


def _entries(
    text: str, position: int, *, whole: bool = False
) -> Iterator[tuple[str, int, int, int]]:
    """Of the list or object at `position`: key (empty in a list), start, start of the value, end.
    A bare value is its own only entry. `whole`: nothing may come after it."""
    position = _skip(text, position)
    opening = text[position : position + 1]
    if opening not in ("[", "{"):
        end = _decode(text, position)[1]
        yield "", position, position, end
        _expect_end(text, end)
        return
    closing = "]" if opening == "[" else "}"
    position = _skip(text, position + 1)
    while text[position : position + 1] != closing:
        key, value = _key(text, position) if opening == "{" else ("", position)
        end = _decode(text, value)[1]
        yield key, position, value, end
        position = _skip(text, end)
        if text[position : position + 1] == ",":
            position = _skip(text, position + 1)
            if text[position : position + 1] == closing:
                raise json.JSONDecodeError("Expecting value", text, position)
        elif text[position : position + 1] != closing:
            raise json.JSONDecodeError(f"Expecting ',' or '{closing}'", text, position)
    if whole:
        _expect_end(text, position + 1)


def _key(text: str, position: int) -> tuple[str, int]:
    """A member's key, and where its value starts."""
    if text[position : position + 1] != '"':
        raise json.JSONDecodeError("Expecting property name", text, position)
    key, position = _decode(text, position)
    position = _skip(text, position)
    if text[position : position + 1] != ":":
        raise json.JSONDecodeError("Expecting ':'", text, position)
    return key, _skip(text, position + 1)


def _expect_end(text: str, position: int) -> None:
    position = _skip(text, position)
    if position < len(text):
        raise json.JSONDecodeError("Extra data", text, position)


def _skip(text: str, position: int) -> int:
    space = _SPACE.match(text, position)
    return space.end() if space else position


def _damaged(name: str, line: int, column: int, reason: str) -> DamagedFileError:
    return DamagedFileError(
        f"{name} is not valid JSON: {reason} at line {line} column {column}.",
        "Mend that place, or give the file the extension txt.",
    )
