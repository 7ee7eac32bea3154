"""What goes between this process and one that reads files: frames of JSON, an 8-byte length first.

A file may have taken over the process that reads it, so what comes back is data and nothing else:
no pickles, every field is checked, and an error can only be one of ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, get_args

from rag.errors import LoadError
from rag.load.build import clean
from rag.types import Content, Element, ElementKind

LENGTH = 8  # bytes, big-endian
_KINDS = frozenset(get_args(ElementKind))
_COLUMNS = tuple(field.name for field in fields(Element))
_NUMBERS = ("start", "end")


class MessageError(Exception):
    """The other side did not keep to the format."""


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(LENGTH, "big") + data


def packed(message: Mapping[str, Any]) -> bytes:
    """Half surrogates, which a file's name may hold, go as escapes."""
    try:
        return json.dumps(message, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(message).encode()


def unpacked(data: bytes | bytearray) -> dict[str, Any]:
    """Raises MessageError."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        raise MessageError from None
    if not isinstance(message, dict):
        raise MessageError
    return message


# --- content: elements column by column, each value but the offsets written only once -------------


def content_message(content: Content) -> dict[str, Any]:
    message = {field.name: getattr(content, field.name) for field in fields(Content)}
    return message | {"elements": {name: _column(content, name) for name in _COLUMNS}}


def _column(content: Content, name: str) -> Any:
    values = [getattr(element, name) for element in content.elements]
    if name in _NUMBERS:
        return values
    places = {value: place for place, value in enumerate(dict.fromkeys(values))}
    return {"values": list(places), "at": [places[value] for value in values]}


def content_of(message: Any) -> Content:
    """Raises MessageError if it is not a content, whole and sound."""
    try:
        values = {field.name: _value(message[field.name]) for field in fields(Content)
                  if field.name != "elements"}  # fmt: skip
        columns = [_values(name, message["elements"][name]) for name in _COLUMNS]
        content = Content(
            **values, elements=tuple(Element(*row) for row in zip(*columns, strict=True))
        )
        _check(content)
    except (KeyError, TypeError, ValueError, IndexError):
        raise MessageError from None
    return content


def _values(name: str, column: Any) -> Sequence[Any]:
    """Checked once for each value, not for each element: there can be a million."""
    if name in _NUMBERS:
        if not isinstance(column, list) or set(map(type, column)) - {int}:
            raise MessageError
        return column
    values = [_value(value) for value in column["values"]]
    if not all(_fits(name, value) for value in values) or min(column["at"], default=0) < 0:
        raise MessageError
    return [values[place] for place in column["at"]]


def _fits(name: str, value: Any) -> bool:
    match name:
        case "kind":
            return value in _KINDS
        case "heading":
            return isinstance(value, tuple) and all(isinstance(title, str) for title in value)
        case "sheet":
            return isinstance(value, str | None)
    return isinstance(value, int | None)  # page, row


def _value(value: Any) -> Any:
    """A plain value as our types hold it: lists as tuples, texts as they can be stored."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return tuple(_value(part) for part in value)
    if value is None or isinstance(value, int | float):
        return value
    raise MessageError


def _check(content: Content) -> None:
    if not all(isinstance(value, str) for value in (content.type, content.title, content.text)):
        raise MessageError
    last = 0
    for element in content.elements:
        if not last <= element.start <= element.end:
            raise MessageError
        last = element.end
    if last > len(content.text):
        raise MessageError


# --- errors ---------------------------------------------------------------------------------------


def error_message(error: LoadError) -> dict[str, str]:
    return {"code": error.code, "message": clean(error.message), "hint": clean(error.hint)}


def error_of(message: Any) -> LoadError:
    """The error that was sent. Raises MessageError if it is none."""
    classes = {LoadError.code: LoadError} | {c.code: c for c in LoadError.__subclasses__()}
    try:
        code, text, hint = message["code"], message["message"], message["hint"]
        return classes[code](_line(text), _line(hint))
    except (KeyError, TypeError):
        raise MessageError from None


def _line(text: Any) -> str:
    if not isinstance(text, str):
        raise MessageError
    return clean(" ".join(text[:2000].split()))
