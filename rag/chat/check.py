"""Does a model answer, does it stream, does it take tools: two short calls tell."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from rag.errors import ContextTooLongError, ModelFormatError, ModelRequestError, RagError
from rag.types import ChatModel, ChatRequest, Delta, Message, ToolSpec

Clock = Callable[[], float]

_SAY_OK = ChatRequest(messages=(Message("user", "Say ok."),), max_tokens=1)
_THINKING = 256  # tokens: a model that thinks first may refuse to be cut off after one
_CALLING = 16  # tokens: enough to see that it was taken, not for a call
_NOTHING = ToolSpec("nothing", "Does nothing.", {"type": "object", "properties": {}})


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What became of the calls. `first_token` and `total` are the seconds of the first one.

    `ok`: it can be used. `tools`: its server took the description of a tool; None if that was not
    asked, or no answer came. `problem` and `hint` are empty unless something went wrong.
    """

    name: str
    ok: bool
    first_token: float | None
    total: float
    streams: bool
    tools: bool | None
    usage_reported: bool
    problem: str = ""
    hint: str = ""


async def check_all(
    models: Sequence[ChatModel], *, concurrency: int = 4, clock: Clock = time.monotonic
) -> list[CheckResult]:
    """One result for each model, in their order; at most `concurrency` are asked at a time."""
    free = asyncio.Semaphore(concurrency)

    async def one(model: ChatModel) -> CheckResult:
        async with free:
            return await check(model, clock=clock)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(model)) for model in models]
    return [task.result() for task in tasks]


async def check(model: ChatModel, *, clock: Clock = time.monotonic) -> CheckResult:
    """Asks for one token, and once more with a tool if the model is said to take tools.

    Never raises a RagError: it becomes `problem` and `hint`.
    """
    started = clock()
    try:
        heard = await _first_call(model, clock)
    except RagError as error:
        if isinstance(error, ModelFormatError) and await _answers_whole(model):
            error = ModelFormatError(
                f"{model.name}: the server answers, but does not stream.",
                "Put a server or proxy before it that passes streams on.",
            )
        return CheckResult(
            name=model.name,
            ok=False,
            first_token=None,
            total=clock() - started,
            streams=False,
            tools=None,
            usage_reported=False,
            problem=error.message,
            hint=error.hint,
        )
    result = CheckResult(
        name=model.name,
        ok=True,
        first_token=None if heard.first is None else heard.first - started,
        total=clock() - started,
        streams=True,
        tools=None,
        usage_reported=heard.usage,
    )
    return await _with_tools(model, result, heard.limit) if model.abilities.tools else result


@dataclass(frozen=True, slots=True)
class _Heard:
    first: float | None  # when the first piece came, by the clock
    usage: bool
    limit: int | None  # the tokens it could say it in


async def _first_call(model: ChatModel, clock: Clock) -> _Heard:
    try:
        return await _listen(model, _SAY_OK, clock)
    except ContextTooLongError:
        raise
    except ModelRequestError as error:
        if "(400)" not in error.message:  # nothing else can mean that one token is too few
            raise
        return await _listen(model, replace(_SAY_OK, max_tokens=_THINKING), clock)


async def _listen(model: ChatModel, request: ChatRequest, clock: Clock) -> _Heard:
    first: float | None = None
    usage = False
    async with aclosing(model.chat(request)) as events:
        async for event in events:
            if isinstance(event, Delta):
                first = clock() if first is None else first
                usage = usage or event.usage is not None
    return _Heard(first, usage, request.max_tokens)


async def _answers_whole(model: ChatModel) -> bool:
    try:
        await _listen(model, replace(_SAY_OK, stream=False), time.monotonic)
    except RagError:
        return False
    return True


async def _with_tools(model: ChatModel, result: CheckResult, limit: int | None) -> CheckResult:
    request = replace(_SAY_OK, tools=(_NOTHING,), max_tokens=max(limit or 0, _CALLING))
    try:
        await _listen(model, request, time.monotonic)
    except ModelRequestError:
        return replace(result, tools=False)
    except RagError as error:  # it did answer before: told, but no reason not to use it
        return replace(result, problem=error.message, hint=error.hint)
    return replace(result, tools=True)


def not_opened(name: str, error: RagError) -> CheckResult:
    """Of a model that there is no way to."""
    return CheckResult(
        name=name,
        ok=False,
        first_token=None,
        total=0.0,
        streams=False,
        tools=None,
        usage_reported=False,
        problem=error.message,
        hint=error.hint,
    )
