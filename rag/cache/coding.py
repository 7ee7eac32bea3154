"""Events as bytes, for Redis: a line for each, its class's name and its JSON."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import TypeAdapter

from rag.types import AnswerEvent


def encoded(event: AnswerEvent) -> bytes:
    """One line. Raises ValueError for text that UTF-8 cannot hold (half a surrogate pair)."""
    name = type(event).__name__
    return name.encode() + b" " + _adapters()[name].dump_json(event)


def decoded(line: bytes) -> AnswerEvent:
    """Raises ValueError for anything but what `encoded` wrote."""
    name, _, body = line.partition(b" ")
    adapter = _adapters().get(name.decode())
    if adapter is None:
        raise ValueError(f"{name[:40]!r} is no event")
    event: AnswerEvent = adapter.validate_json(body)
    return event


def encoded_all(events: Iterable[AnswerEvent]) -> bytes:
    return b"\n".join(encoded(event) for event in events)


def decoded_all(lines: bytes) -> tuple[AnswerEvent, ...]:
    return tuple(decoded(line) for line in lines.split(b"\n"))


@functools.cache
def shape() -> str:
    """Names the shape of all events: a program whose events look otherwise has another."""
    schema = TypeAdapter[Any](AnswerEvent).json_schema()
    return hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).hexdigest()[:12]


@functools.cache
def _adapters() -> dict[str, TypeAdapter[Any]]:
    return {event.__name__: TypeAdapter(event) for event in get_args(AnswerEvent)}
