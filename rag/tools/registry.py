"""Tools: functions a model may call, described to it and checked by their type hints."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import Any, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import to_json

from rag.errors import ConfigError, ToolError
from rag.types import ToolCall, ToolSpec

_LOG = logging.getLogger("rag")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what the OpenAI format allows
_SHOWN = 500  # characters of a tool's or a checker's own words in an error
_NAMED = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY

# Not the loop's own pool: a function that hangs must not stop what else the process does.
_THREADS = ThreadPoolExecutor(max_workers=16, thread_name_prefix="rag-tool")


@dataclass(frozen=True, slots=True)
class Tool:
    """Something a model may call.

    `run` takes the arguments as the model wrote them and returns the text the model gets; it
    raises ToolError with a text for the model. `cacheable`: the result depends on nothing but the
    arguments and the documents. `details` is more to be said about it that has to be looked up
    first (the schema of a database); it may take a while, and never raises.
    """

    spec: ToolSpec
    run: Callable[[str], Awaitable[str]]
    cacheable: bool = False
    details: Callable[[], str] | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """`text` is what the model is given, the error's if it `failed`."""

    text: str
    failed: bool
    seconds: float


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...


@overload
def tool(
    *, name: str = "", cacheable: bool = False, details: Callable[[], str] | None = None
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str = "",
    cacheable: bool = False,
    details: Callable[[], str] | None = None,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Makes a tool of a function, plain or async: `@tool` or `@tool(cacheable=True)`.

    Its docstring is the description, its type hints are the schema (`Annotated[int, Field(ge=1,
    description="...")]` says more); arguments are checked before it is called. A plain function
    runs in a thread, and goes on there after a time-out. What it returns is given to the model,
    as JSON if it is not a text. Raises ConfigError if the function cannot be described.
    """
    if function is None:
        return lambda found: _made(found, name, cacheable, details)
    return _made(function, name, cacheable, details)


def _made(
    function: Callable[..., Any], name: str, cacheable: bool, details: Callable[[], str] | None
) -> Tool:
    name = name or getattr(function, "__name__", "")
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"A tool cannot be named {name!r}.", "Use up to 64 letters, digits, _ and -."
        )
    description = inspect.getdoc(function) or ""
    if not description:
        raise ConfigError(f"The tool {name} has no description.", "Give it a docstring.")
    names, model = _arguments(function, name)
    spec = ToolSpec(name, description, _schema(model, name))

    async def run(arguments: str) -> str:
        values = _checked(model, name, arguments)
        result = await _called(function, {names[field]: value for field, value in values.items()})
        return result if isinstance(result, str) else to_json(result).decode()

    return Tool(spec, run, cacheable, details)


def _arguments(function: Callable[..., Any], name: str) -> tuple[dict[str, str], type[BaseModel]]:
    """The model of the arguments, and the parameter's name by field.

    Fields have names of our own, so that a parameter may be called `json` or `copy`.
    """
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise ConfigError(f"The type hints of the tool {name} cannot be read: {error}.") from None
    names: dict[str, str] = {}
    fields: dict[str, Any] = {}
    for place, parameter in enumerate(inspect.signature(function).parameters.values()):
        if parameter.kind not in _NAMED or parameter.name not in hints:
            raise ConfigError(
                f"The tool {name} has a parameter {parameter} that cannot be described.",
                "Every parameter needs a name and a type hint.",
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        names[f"argument_{place}"] = parameter.name
        fields[f"argument_{place}"] = (hints[parameter.name], Field(default, alias=parameter.name))
    try:
        model = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
    except PydanticUserError as error:
        raise ConfigError(f"The tool {name} cannot be described: {error.message}.") from None
    return names, model


class _Untitled(GenerateJsonSchema):
    """Titles only repeat the names: tokens for nothing."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


def _schema(model: type[BaseModel], name: str) -> dict[str, Any]:
    try:
        schema = model.model_json_schema(schema_generator=_Untitled)
    except PydanticUserError as error:
        raise ConfigError(f"The tool {name} cannot be described: {error.message}.") from None
    schema.pop("title", None)
    schema.setdefault("properties", {})
    return schema


def _checked(model: type[BaseModel], name: str, arguments: str) -> dict[str, Any]:
    """Values by field. Models send an empty text for no arguments."""
    try:
        found = model.model_validate_json(arguments.strip() or "{}")
    except ValidationError as error:
        wrong = "; ".join(
            ": ".join(part for part in (".".join(map(str, e["loc"])), e["msg"]) if part)
            for e in error.errors(include_url=False, include_input=False, include_context=False)
        )
        raise ToolError(f"Wrong arguments for {name}: {wrong[:_SHOWN]}.") from None
    return {field: getattr(found, field) for field in model.model_fields}


async def _called(function: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(**values)
    context = copy_context()
    result = await asyncio.get_running_loop().run_in_executor(
        _THREADS, lambda: context.run(function, **values)
    )
    return await result if inspect.isawaitable(result) else result


async def described(tools: Iterable[Tool]) -> tuple[ToolSpec, ...]:
    """The tools as a model is told of them, with details looked up in a thread."""
    loop = asyncio.get_running_loop()
    specs = []
    for each in tools:
        spec = each.spec
        if each.details is not None:
            details = await loop.run_in_executor(_THREADS, each.details)
            spec = replace(spec, description=f"{spec.description}\n\n{details}".strip())
        specs.append(spec)
    return tuple(specs)


async def run_tool(
    tools: Mapping[str, Tool],
    call: ToolCall,
    *,
    seconds: float,
    max_chars: int = 20_000,
    clock: Callable[[], float] = time.perf_counter,
) -> ToolResult:
    """Does what a model asked for. Whatever goes wrong is told to the model: nothing is raised but
    a cancellation. A text of more than `max_chars` is cut there, and a notice added."""
    begun = clock()
    text, failed = await _tried(tools, call, seconds)
    text = text.encode("utf-8", "replace").decode()  # half a character would break the request
    if len(text) > max_chars:
        text = f"{text[:max_chars]}\n[cut: the first {max_chars} of {len(text)} characters]"
    return ToolResult(text, failed, clock() - begun)


async def _tried(tools: Mapping[str, Tool], call: ToolCall, seconds: float) -> tuple[str, bool]:
    chosen = tools.get(call.name)
    if chosen is None:
        names = ", ".join(sorted(tools)) or "none"
        return f"There is no tool {call.name[:64]!r}. Tools: {names}.", True
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await chosen.run(call.arguments), False
    except ToolError as error:
        return str(error), True
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's function may raise anything
        if limit.expired():
            return f"{call.name} took longer than {seconds:g} s and was given up.", True
        _LOG.warning("The tool %s failed.", call.name, exc_info=True)
        return f"{call.name} failed ({type(error).__name__}).", True


def load_tools(where: str) -> tuple[Tool, ...]:
    """The tools of an operator's module, "package.module", or the one (or the sequence of them)
    called by name, "package.module:name". Raises ConfigError if there is none."""
    module_name, _, name = where.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a foreign module may raise anything
        raise ConfigError(
            f"The tools {where!r} cannot be loaded ({type(error).__name__}: {error}).",
            "Name a module that Python can import, as in package.module:name.",
        ) from error
    if name and not hasattr(module, name):
        raise ConfigError(f"The module {module_name} has no {name}.")
    values = _flat(getattr(module, name)) if name else list(vars(module).values())
    found = {id(value): value for value in values if isinstance(value, Tool)}
    if not found or (name and len(found) < len(values)):
        raise ConfigError(f"There are no tools in {where!r}.", "Decorate functions with @tool.")
    names = [each.spec.name for each in found.values()]
    twice = sorted({each for each in names if names.count(each) > 1})
    if twice:
        raise ConfigError(f"Two tools in {where!r} are named {twice[0]}.")
    return tuple(found.values())


def _flat(value: object) -> list[object]:
    return list(value) if isinstance(value, Sequence) else [value]
