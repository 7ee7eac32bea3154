"""A caller's JSON schema: checked, and replies checked against it, both within limits.

Source: JSON Schema draft 2020-12, of which references to other documents, anchors,
`patternProperties` and `unevaluated...` are left out: they could load addresses, or the library
would go on without end and without asking us.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any
from urllib.parse import unquote

from rag.errors import InputError, SchemaError

MAX_BYTES = 64 * 1024
MAX_DEPTH = 32

_MAX_PATTERN = 1000
_PATTERN_SECONDS = 0.25
_MAX_STEPS = 100_000
_MAX_NESTING = 100  # of keywords at work; far from where Python or Rust runs out of stack
_MAX_PROBLEMS = 5
_MAX_MESSAGE = 160
_MAX_VALUE = 40

_HINT = "Give a JSON schema (draft 2020-12) that refers to its own parts only."
_DATA = frozenset({"const", "default", "enum", "examples"})
_NAMED = frozenset({"$defs", "definitions", "dependentSchemas", "properties"})
_UNSUPPORTED = frozenset(
    {
        "$anchor",
        "$dynamicAnchor",
        "$dynamicRef",
        "$id",
        "$recursiveAnchor",
        "$recursiveRef",
        "$schema",
        "patternProperties",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)

_PROBES: tuple[Any, ...] = (None, {}, [], "", 0)


@dataclass(slots=True)
class _Work:
    """What one check has cost so far."""

    steps: int = 0
    nesting: int = 0


_work: ContextVar[_Work] = ContextVar("_work")


def checked(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the schema, without `$schema` and `$id` at its top. Raises InputError."""
    copy = _copied(schema)
    copy.pop("$schema", None)
    copy.pop("$id", None)
    places = {id(part) for part in subschemas(copy)}
    for part in subschemas(copy):
        for keyword, value in part.items():
            _check_keyword(keyword, value)
            if keyword == "$ref" and id(_target(copy, value)) not in places:
                raise InputError(f"The schema has no part {_short(value)}.", _HINT)
    _check_as_schema(copy)
    _check_that_it_ends(copy)
    return copy


def subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    """The schema and all schemas in it; not the data in it, nor tables of named schemas."""
    if isinstance(schema, list):
        for part in schema:
            yield from subschemas(part)
    elif isinstance(schema, dict):
        yield schema
        for keyword, value in schema.items():
            if keyword in _NAMED and isinstance(value, dict):
                yield from subschemas(list(value.values()))
            elif keyword not in _DATA:
                yield from subschemas(value)


def problems(schema: Mapping[str, Any], value: Any) -> list[str]:
    """What of the value does not fit, at most five of "/place: what is wrong" (no place: the
    whole); none if it fits.

    Raises SchemaError if that would take too long to find out.
    """
    work = _work.set(_Work())
    try:
        errors = list(islice(_validator()(schema).iter_errors(value), _MAX_PROBLEMS))
        return [_told(error) for error in errors]
    except ArithmeticError:
        raise _too_costly() from None
    finally:
        _work.reset(work)


def _copied(schema: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(schema, Mapping):
        raise InputError("The schema is not a JSON object.", _HINT)
    try:
        text = json.dumps(dict(schema), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise InputError("The schema is not JSON.", _HINT) from None
    if len(text) > MAX_BYTES:
        raise InputError(
            f"The schema has {len(text)} bytes, more than the {MAX_BYTES} allowed.",
            "Make it smaller.",
        )
    copy: dict[str, Any] = json.loads(text)
    if _deeper_than(copy, MAX_DEPTH):
        raise InputError(f"The schema is more than {MAX_DEPTH} levels deep.", "Make it flatter.")
    return copy


def _deeper_than(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inside = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper_than(part, levels - 1) for part in inside)


def _check_keyword(keyword: str, value: Any) -> None:
    if keyword in _UNSUPPORTED:
        raise InputError(f"The schema uses {keyword}, which is not supported.", _HINT)
    if keyword == "$ref" and not (value == "#" or str(value).startswith("#/")):
        raise InputError(f"The schema refers to {_short(value)}, outside of itself.", _HINT)
    if keyword == "pattern":
        _check_pattern(value)


def _check_pattern(pattern: Any) -> None:
    import regex

    try:
        if not isinstance(pattern, str) or len(pattern) > _MAX_PATTERN:
            raise InputError(
                f"A pattern of the schema is no text of at most {_MAX_PATTERN} characters.", _HINT
            )
        regex.compile(pattern)
    except (regex.error, OverflowError, RecursionError):
        raise InputError(
            f"The schema's pattern {_short(pattern)} is not a regular expression.", _HINT
        ) from None


def _target(schema: dict[str, Any], ref: str) -> Any:
    """What a JSON pointer (RFC 6901, as a fragment) leads to; None if it leads nowhere."""
    part: Any = schema
    for step in unquote(ref).split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(part, dict):
            part = part.get(key)
        elif isinstance(part, list) and key.isascii() and key.isdigit() and len(key) < 6:
            part = part[int(key)] if int(key) < len(part) else None
        else:
            return None
    return part


def _check_as_schema(schema: dict[str, Any]) -> None:
    from jsonschema import Draft202012Validator

    meta = Draft202012Validator(Draft202012Validator.META_SCHEMA)
    for error in meta.iter_errors(schema):
        raise InputError(f"The schema is wrong at /{_told(error).lstrip('/')}.", _HINT)


def _check_that_it_ends(schema: dict[str, Any]) -> None:
    try:
        for probe in _PROBES:
            problems(schema, probe)
    except SchemaError:
        raise InputError("The schema refers to itself without end.", _HINT) from None


@cache
def _validator() -> Any:
    """Draft 2020-12 that counts its steps, loads nothing, and gives up on endless patterns."""
    from jsonschema import Draft202012Validator, validators
    from referencing import Registry

    own = {"pattern": _pattern, "uniqueItems": _unique_items}
    counted = {
        keyword: _counted(own.get(keyword, check))
        for keyword, check in Draft202012Validator.VALIDATORS.items()
    }
    limited = validators.extend(Draft202012Validator, counted)
    # Without a registry of its own it would load what a reference names.
    registry: Any = Registry()
    return lambda schema: limited(schema, registry=registry)


def _counted(check: Callable[..., Any]) -> Callable[..., Any]:
    def run(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        work = _work.get()
        work.steps += 1
        work.nesting += 1
        try:
            if work.steps > _MAX_STEPS or work.nesting > _MAX_NESTING:
                raise _too_costly()
            yield from check(validator, value, instance, schema) or ()
        finally:
            work.nesting -= 1

    return run


def _pattern(validator: Any, pattern: str, instance: Any, _: Any) -> Iterator[Any]:
    import regex
    from jsonschema import ValidationError

    if not validator.is_type(instance, "string"):
        return
    try:
        found = regex.search(pattern, instance, timeout=_PATTERN_SECONDS)
    except TimeoutError:
        raise _too_costly() from None
    if not found:
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _unique_items(validator: Any, wanted: bool, instance: Any, _: Any) -> Iterator[Any]:
    """In linear time, where the library compares each with each."""
    from jsonschema import ValidationError

    if wanted and validator.is_type(instance, "array"):
        distinct = {json.dumps(item, sort_keys=True) for item in instance}
        if len(distinct) < len(instance):
            yield ValidationError(f"{instance!r} has non-unique elements")


def _too_costly() -> SchemaError:
    return SchemaError(
        "It would take too long to check the reply against the schema.", "Make the schema simpler."
    )


def _told(error: Any) -> str:
    """Of several alternatives, what is wrong with the closest."""
    from jsonschema.exceptions import best_match

    closest = best_match([error])
    place = "".join(f"/{_short(step)}" for step in closest.absolute_path)
    whole = repr(closest.instance)
    message = str(closest.message).replace(whole, _short(whole))
    return f"{place}: {_short(message, _MAX_MESSAGE)}"


def _short(value: Any, most: int = _MAX_VALUE) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= most else text[: most - 1] + "…"
