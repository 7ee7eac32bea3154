"""The registry: how functions become tools, and that nothing a tool does breaks an answer."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from rag.errors import ConfigError, ToolError
from rag.tools import Tool, ToolResult, calculate, described, load_tools, run_tool, tool
from rag.types import ToolCall


@tool
def weather(
    city: str,
    days: Annotated[int, Field(ge=1, le=7, description="how many days")] = 3,
    unit: Literal["C", "F"] = "C",
) -> str:
    """What the weather will be."""
    return f"{city}, {days}, {unit}"


def run(chosen: Tool, arguments: str = "{}", **options: object) -> ToolResult:
    call = ToolCall("1", chosen.spec.name, arguments)
    options.setdefault("seconds", 5.0)
    return asyncio.run(run_tool({chosen.spec.name: chosen}, call, **options))  # type: ignore[arg-type]


# --- functions become tools --------------------------------------------------------------------


def test_a_function_is_described_by_its_name_docstring_and_hints() -> None:
    assert weather.spec.name == "weather"
    assert weather.spec.description == "What the weather will be."
    assert weather.spec.parameters == {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {
                "type": "integer",
                "minimum": 1,
                "maximum": 7,
                "default": 3,
                "description": "how many days",
            },
            "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
        },
        "required": ["city"],
        "additionalProperties": False,
    }
    assert not weather.cacheable


def test_the_decorator_takes_a_name_and_whether_results_may_be_kept() -> None:
    @tool(name="other", cacheable=True)
    def named() -> str:
        """Says hello."""
        return "hello"

    assert (named.spec.name, named.cacheable) == ("other", True)
    assert named.spec.parameters["properties"] == {}
    assert run(named, "").text == "hello"


def test_arguments_may_have_any_name_and_type() -> None:
    class Place(BaseModel):
        lat: float

    def locate(json: Place, copy: list[date], model_config: dict[str, int]) -> str:
        """Finds."""
        return f"{json.lat} {copy[0].year} {model_config}"

    locate.__annotations__["json"] = Place
    arguments = '{"json": {"lat": 1}, "copy": ["2024-02-03"], "model_config": {"a": 1}}'
    assert run(tool(locate), arguments).text == "1.0 2024 {'a': 1}"


def untyped(city) -> str:  # type: ignore[no-untyped-def]
    """A."""
    return str(city)


def many(*cities: str) -> str:
    """A."""
    return str(cities)


def positional(city: str, /) -> str:
    """A."""
    return city


def silent(city: str) -> str:
    return city


def strange(city: threading.Lock) -> str:  # type: ignore[valid-type]
    """A."""
    return str(city)


def unknown(city: Nowhere) -> str:  # type: ignore[name-defined]  # noqa: F821
    """A."""
    return str(city)


def größe() -> str:
    """A."""
    return ""


@pytest.mark.parametrize(
    "function", [untyped, many, positional, silent, strange, unknown, größe, lambda: 1]
)
def test_a_function_that_cannot_be_described_is_refused_at_once(
    function: Callable[..., str],
) -> None:
    with pytest.raises(ConfigError):
        tool(function)


# --- calls -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"city": "北京"}', "北京, 3, C"),
        ('{"city": "Rome", "days": "2", "unit": "F"}', "Rome, 2, F"),
    ],
)
def test_a_call_is_made_with_checked_arguments(arguments: str, text: str) -> None:
    result = run(weather, arguments, clock=iter([1.0, 3.5]).__next__)
    assert result == ToolResult(text, False, 2.5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("", "city: Field required"),
        ('{"city": 3}', "city: Input should be a valid string"),
        ('{"city": "a", "days": 9}', "days: Input should be less than or equal to 7"),
        ('{"city": "a", "unit": "K"}', "unit: Input should be 'C' or 'F'"),
        ('{"city": "a", "when": 1}', "when: Extra inputs are not permitted"),
        ('{"city": "a", "argument_1": 1}', "argument_1: Extra inputs are not permitted"),
        ('["a"]', "Input should be an object"),
        ('{"city": "a', "Invalid JSON"),
        ("[" * 100_000, "Invalid JSON"),
        ("not JSON", "Invalid JSON"),
    ],
)
def test_wrong_arguments_are_told_to_the_model(arguments: str, says: str) -> None:
    result = run(weather, arguments)
    assert result.failed
    assert result.text.startswith("Wrong arguments for weather: ")
    assert says in result.text
    assert len(result.text) < 600


def test_an_unknown_tool_is_answered_with_those_there_are() -> None:
    call = ToolCall("1", "wether" * 100, "{}")
    result = asyncio.run(run_tool({"weather": weather, "add": weather}, call, seconds=1))
    assert result.failed
    assert result.text.endswith("Tools: add, weather.")
    assert len(result.text) < 120


def test_a_tool_error_is_the_text_for_the_model() -> None:
    @tool
    def refuse() -> str:
        """Refuses."""
        raise ToolError("Not today.", "Ask tomorrow.")

    result = run(refuse)
    assert (result.text, result.failed) == ("Not today. Ask tomorrow.", True)


@pytest.mark.parametrize("error", [ValueError("hunter2"), SystemExit(3), TimeoutError("hunter2")])
def test_what_a_users_function_raises_is_named_and_logged_and_not_shown(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    @tool
    async def broken() -> str:
        """Breaks."""
        raise error

    with caplog.at_level(logging.WARNING, "rag"):
        result = run(broken)
    assert (result.text, result.failed) == (f"broken failed ({type(error).__name__}).", True)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error


@pytest.mark.parametrize("slow", ["async", "plain"])
def test_a_tool_that_takes_too_long_is_given_up(slow: str) -> None:
    release = threading.Event()

    async def wait() -> str:
        """Waits."""
        await asyncio.Event().wait()
        return ""

    def block() -> str:
        """Blocks."""
        release.wait(10)
        return ""

    try:
        result = run(tool(wait if slow == "async" else block), seconds=0.01)
    finally:
        release.set()
    assert result.failed
    assert "took longer than 0.01 s" in result.text


def test_a_cancellation_passes() -> None:
    @tool
    async def wait() -> str:
        """Waits."""
        started.set()
        await asyncio.Event().wait()
        return ""

    started: asyncio.Event

    async def main() -> None:
        nonlocal started
        started = asyncio.Event()
        call = ToolCall("1", "wait", "{}")
        task = asyncio.create_task(run_tool({"wait": wait}, call, seconds=60))
        await started.wait()
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())


def test_a_plain_function_runs_in_a_thread_and_sees_the_callers_context() -> None:
    caller = contextvars.ContextVar("caller", default="nobody")

    @tool
    def who() -> str:
        """Tells."""
        return f"{caller.get()} {threading.current_thread() is threading.main_thread()}"

    caller.set("ada")
    assert run(who).text == "ada False"


@dataclass
class Place:
    name: str
    seen: date


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is\n", "as it is\n"),
        (None, "null"),
        ([1, 2.5, "二"], '[1,2.5,"二"]'),
        ({"a": Decimal("1.10")}, '{"a":"1.10"}'),
        (Place("x", date(2024, 1, 2)), '{"name":"x","seen":"2024-01-02"}'),
        ("half \ud800", "half ?"),
    ],
)
def test_a_result_is_text_or_json(value: object, text: str) -> None:
    def give() -> object:
        """Gives."""
        return value

    assert run(tool(give)).text == text


def test_a_result_that_has_no_text_is_a_failure() -> None:
    @tool
    def give() -> object:
        """Gives."""
        return object()

    assert run(give).text == "give failed (PydanticSerializationError)."


def test_a_long_result_is_cut_and_that_is_said() -> None:
    @tool
    def long() -> str:
        """Is long."""
        return "长" * 30

    assert run(long, max_chars=10).text == "长" * 10 + "\n[cut: the first 10 of 30 characters]"
    assert run(long, max_chars=30).text == "长" * 30


def test_details_are_looked_up_when_a_tool_is_described() -> None:
    asked: list[bool] = []

    def details() -> str:
        asked.append(threading.current_thread() is threading.main_thread())
        return "Tables: a, b."

    @tool(details=details)
    def look() -> str:
        """Looks."""
        return ""

    assert asked == []
    found = asyncio.run(described([weather, look]))
    assert asked == [False]
    assert [spec.description for spec in found] == [
        "What the weather will be.",
        "Looks.\n\nTables: a, b.",
    ]


# --- an operator's modules ---------------------------------------------------------------------


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    made = types.ModuleType("an_operators_tools")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made


def test_the_tools_of_a_module_are_found(module: types.ModuleType) -> None:
    module.weather = module.again = weather  # type: ignore[attr-defined]
    module.calculate = calculate  # type: ignore[attr-defined]
    module.other = 3  # type: ignore[attr-defined]
    module.chosen = [calculate]  # type: ignore[attr-defined]
    assert load_tools(module.__name__) == (weather, calculate)
    assert load_tools(f"{module.__name__}:weather") == (weather,)
    assert load_tools(f"{module.__name__}:chosen") == (calculate,)


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("no_such_module", "cannot be loaded"),
        ("", "cannot be loaded"),
        (".relative", "cannot be loaded"),
        ("an_operators_tools", "no tools"),
        ("an_operators_tools:missing", "has no missing"),
        ("an_operators_tools:other", "no tools"),
        ("an_operators_tools:mixed", "no tools"),
        ("an_operators_tools:twice", "named weather"),
    ],
)
def test_what_is_no_tool_is_said(module: types.ModuleType, where: str, says: str) -> None:
    module.other = 3  # type: ignore[attr-defined]
    if where.endswith(("mixed", "twice")):
        copy = Tool(weather.spec, weather.run)
        module.mixed = [weather, 3]  # type: ignore[attr-defined]
        module.twice = (weather, copy)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=says):
        load_tools(where)
