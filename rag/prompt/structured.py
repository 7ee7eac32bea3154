"""Answers as JSON that fits a schema: asked for, read, and asked for once more."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from rag.errors import SchemaError
from rag.prompt import texts
from rag.prompt.schemas import checked, problems, subschemas
from rag.text import Language
from rag.types import Message

_MAX_REPLY = 400_000  # characters
_MAX_CANDIDATES = 50
_MAX_SOURCES = 99
_HINT = "Ask again, or make the schema simpler."
_LIFTED = ("$defs", "definitions")


@dataclass(frozen=True, slots=True)
class Structured:
    """`data` fits the caller's schema, unless `refused`: then it is None. `sources` are numbers
    as the model gave them, each once."""

    data: Any
    sources: tuple[int, ...]
    refused: bool


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A caller's schema, and one round it that has a place for sources and for a refusal.

    `schema` is that of the whole reply: {"answer": what `own` says or null, "sources": [1, 3]}.
    """

    own: Mapping[str, Any]
    schema: Mapping[str, Any]

    @classmethod
    def of(cls, schema: Mapping[str, Any]) -> Wrapped:
        """Raises InputError if it is no JSON schema of draft 2020-12, has more than 64 kB or 32
        levels, or refers to anything outside of itself."""
        own = checked(schema)
        return cls(own, _wrapped(deepcopy(own)))

    def instruction(self, language: Language, *, enforced: bool = False) -> str:
        """What to tell the model; without the schema where its server holds it to that."""
        told = texts.JSON_ANSWER[language]
        if enforced:
            return told
        schema = json.dumps(self.own, ensure_ascii=False, separators=(",", ":"))
        return f"{told}\n\n{texts.JSON_SCHEMA[language]}\n{schema}"

    def parse(self, text: str) -> Structured:
        """Reads a reply, with or without a fence or text round it.

        Raises SchemaError, whose message names up to five things that do not fit.
        """
        reply = _json_object(text)
        sources = _sources(reply)
        data = reply["answer"]
        if data is None and (not sources or problems(self.own, None)):
            return Structured(None, (), refused=True)
        found = problems(self.own, data)
        if found:
            raise _misfit("; ".join("/answer" + problem for problem in found))
        if "sources" not in reply:
            raise _misfit('"sources" is missing')
        return Structured(data, sources, refused=False)


def repair_message(error: SchemaError, language: Language) -> Message:
    """What to say after a reply that `parse` refused, to have it corrected."""
    return Message("user", texts.JSON_REPAIR[language].replace("{problem}", error.message))


def _wrapped(own: dict[str, Any]) -> dict[str, Any]:
    """Definitions move to the top, where references to them still lead; the rest moves there too
    if anything refers to it."""
    lifted = {table: own.pop(table) for table in _LIFTED if table in own}
    answer = own
    moved = [part for part in subschemas([own, *_parts(lifted)]) if _refers_to_top(part)]
    if moved:
        definitions = lifted.setdefault("$defs", {})
        name = "answer"
        while name in definitions:
            name += "_"
        for part in moved:
            part["$ref"] = f"#/$defs/{name}{part['$ref'][1:]}"
        definitions[name] = own
        answer = {"$ref": f"#/$defs/{name}"}
    return {
        "type": "object",
        "properties": {
            "answer": {"anyOf": [answer, {"type": "null"}]},
            "sources": {"type": "array", "items": {"type": "integer"}},
        },
        "required": ["answer", "sources"],
        "additionalProperties": False,
        **lifted,
    }


def _parts(lifted: Mapping[str, Any]) -> list[Any]:
    return [part for table in lifted.values() for part in table.values()]


def _refers_to_top(part: Mapping[str, Any]) -> bool:
    ref = part.get("$ref")
    lifted = tuple(f"#/{table}/" for table in _LIFTED)
    return isinstance(ref, str) and not unquote(ref).startswith(lifted)


def _json_object(text: str) -> dict[str, Any]:
    """The last object in the text that has an answer."""
    if len(text) > _MAX_REPLY:
        raise _misfit(f"it has more than {_MAX_REPLY} characters")
    replies = [found for found in _objects(text) if "answer" in found]
    if not replies:
        raise _misfit('it holds no whole JSON object with "answer"')
    try:
        json.dumps(replies[-1], ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        raise _misfit("it holds half a character, or too many levels") from None
    return replies[-1]


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The outermost JSON objects in the text."""
    decoder = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)
    start = text.find("{")
    for _ in range(_MAX_CANDIDATES):
        if start < 0:
            return
        try:
            found, end = decoder.raw_decode(text, start)
            yield found
        except (ValueError, RecursionError):
            end = start + 1
        start = text.find("{", end)


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(number)
    return value


def _sources(reply: Mapping[str, Any]) -> tuple[int, ...]:
    numbers = reply.get("sources", [])
    if not isinstance(numbers, list) or any(type(n) is not int for n in numbers):
        raise _misfit('"sources" is not a list of whole numbers')
    return tuple(dict.fromkeys(numbers[:_MAX_SOURCES]))


def _misfit(what: str) -> SchemaError:
    return SchemaError(f"The reply does not fit the schema: {what}.", _HINT)
