"""What stands in one line of questions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from rag.errors import InputError
from rag.types import Filters, Message


def fields_of(raw: bytes) -> dict[str, Any]:
    """Raises InputError for a line that asks nothing, or for what nobody would read."""
    try:
        fields = json.loads(raw.decode(), parse_constant=_no_number)
    except UnicodeDecodeError:
        raise InputError("it is not UTF-8.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"it is not JSON ({error}).") from None
    if not isinstance(fields, dict):
        raise InputError("it is not a JSON object.")
    question = fields.get("question")
    if not isinstance(question, str) or not question.strip():
        raise InputError('it has no "question".')
    if fields.get("id") is not None and not is_id(fields["id"]):
        raise InputError('"id" must be a text or a whole number.')
    if unknown := sorted(fields.keys() - {"id", "question", "meta"} - READERS.keys()):
        raise InputError(f'there is no field "{unknown[0]}"; "meta" may hold anything.')
    return fields


def anything(raw: bytes) -> dict[str, Any]:
    """What can be told of a line that need not be right; NaN and its like are None."""
    try:
        fields = json.loads(raw, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def is_id(value: object) -> bool:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return is_number or (isinstance(value, str) and value != "")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f'"{name}" must be a text.')
    return value


def _count(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f'"{name}" must be a whole number from 1 on.')
    return value


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f'"{name}" must be a JSON object.')
    return value


def _filters(name: str, value: Any) -> Filters:
    lists = _object(name, value)
    for key, values in lists.items():
        if key not in Filters.__slots__:
            raise InputError(f'"{name}" has no "{key}".')
        if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            raise InputError(f'"{key}" of "{name}" must be a list of texts.')
    return Filters(**{key: tuple(values) for key, values in lists.items()})


def _history(name: str, value: Any) -> tuple[Message, ...]:
    def message(turn: object) -> Message:
        match turn:
            case {"role": "user" | "assistant" as role, "content": str(text), **rest} if not rest:
                return Message(role, text)
        raise InputError(f'"{name}" must be [{{"role": user or assistant, "content": text}}, ...].')

    if not isinstance(value, list):
        raise InputError(f'"{name}" must be a list.')
    return tuple(message(turn) for turn in value)


READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "knowledge_base": _text,
    "model": _text,
    "preset": _text,
    "session_id": _text,
    "top_k": _count,
    "filters": _filters,
    "schema": _object,
    "history": _history,
}
