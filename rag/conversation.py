"""What passes between us and a model for one answer: messages, replies, tool calls and results."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from rag.errors import ContextTooLongError
from rag.prompt import Prompt, narrower
from rag.sources import Sources
from rag.tools import Tool, described, run_tool
from rag.types import (
    ChatModel,
    ChatRequest,
    Delta,
    Message,
    Retried,
    Retrieved,
    ToolCall,
    ToolSpec,
    ToolUsed,
    Usage,
)

BuildPrompt = Callable[[int | None, int | None], Prompt]
"""(most turns, most hits) -> the prompt with no more than these."""

_APART = "\n\n"  # what is said before and after a tool is called
_LAST_STEP = "No more tools can be called. Answer now, from what is known."
_RESULT_SHARE = 4  # a tool's result takes at most 1/4 as many characters as the window has tokens
_MIN_RESULT = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolLimits:
    """For one answer: rounds of calls, and seconds for all of them."""

    steps: int
    seconds: float


class Conversation:
    """Goes on until the model has answered without calling a tool.

    `usage`, `name` (of the model that wrote last), `finish_reason`, `prompt` and `tools_used` tell
    how it went, at any time.
    """

    def __init__(
        self,
        model: ChatModel,
        build: BuildPrompt,
        request: ChatRequest,
        *,
        sources: Sources,
        tools: Mapping[str, Tool],
        limits: ToolLimits,
        clock: Callable[[], float],
    ) -> None:
        """`request` is what all calls share; messages and tools are put in here."""
        self._model = model
        self._build = build
        self._request = request
        self._sources = sources
        self._tools = tools
        self._limits = limits
        self._clock = clock
        self._until = clock() + limits.seconds
        self._narrowed: tuple[int, int] | None = None
        self._since: list[Message] = []  # what came after the prompt
        self._start()
        self.usage = Usage()
        self.name = model.name
        self.finish_reason: str | None = None
        self.tools_used: list[ToolUsed] = []

    def _start(self) -> None:
        self.prompt = self._build(*(self._narrowed or (None, None)))
        self._sources.show(len(self.prompt.sources))

    @property
    def shortened(self) -> bool:
        """The model, or its server, asked for less than we thought would fit."""
        return self._narrowed is not None

    async def pieces(self) -> AsyncGenerator[str | Retried | ToolUsed | Retrieved]:
        """Pieces of text as they are written; what happens between them."""
        specs = await described(self._tools.values())
        spoken = False
        for step in range(self._limits.steps + 1):
            calls: tuple[ToolCall, ...] = ()
            said: list[str] = []
            async with aclosing(self._reply(self._allowed(specs, step))) as reply:
                async for event in reply:
                    if isinstance(event, Delta):
                        calls = event.tool_calls or calls
                        said += [event.text] if event.text else []
                        if event.text:
                            if spoken and len(said) == 1:
                                yield _APART
                            yield event.text
                    else:
                        yield event
            spoken = spoken or bool(said)
            self._since.append(Message("assistant", "".join(said), tool_calls=calls))
            if not calls:
                return
            async with aclosing(self._results(calls)) as results:
                async for result in results:
                    yield result

    async def after(self, message: Message) -> AsyncGenerator[str | Retried | ToolUsed | Retrieved]:
        """The model's reply to one more message."""
        self._since.append(message)
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                yield piece

    def _allowed(self, specs: tuple[ToolSpec, ...], step: int) -> tuple[ToolSpec, ...]:
        """The tools that may still be called; when the limits are reached the model is told so."""
        if specs and (step == self._limits.steps or self._clock() >= self._until):
            self._since.append(Message("user", _LAST_STEP))
            return ()
        return specs

    async def _reply(self, tools: tuple[ToolSpec, ...]) -> AsyncGenerator[Delta | Retried]:
        while True:
            request = replace(
                self._request, messages=(*self.prompt.messages, *self._since), tools=tools
            )
            said = False
            try:
                async with aclosing(self._model.chat(request)) as events:
                    async for event in events:
                        if isinstance(event, Delta):
                            said = said or event.says_something
                            yield self._noted(event, calls_allowed=bool(tools))
                        else:
                            yield event
            except ContextTooLongError:
                if said or not self._shorten():
                    raise
            else:
                return

    def _noted(self, delta: Delta, *, calls_allowed: bool) -> Delta:
        if delta.usage is not None:
            self.usage += delta.usage
        self.name = delta.model or self.name
        self.finish_reason = delta.finish_reason or self.finish_reason
        return delta if calls_allowed else replace(delta, tool_calls=())

    def _shorten(self) -> bool:
        """Half of the turns, then of the hits; of results of tools, once there are some, half of
        the longest. False if no more can be left out."""
        if self._shorten_result():
            return True
        narrowed = narrower(self.prompt)
        if narrowed is None:
            return False
        self._narrowed = narrowed
        self._start()
        return True

    def _shorten_result(self) -> bool:
        results = [i for i, message in enumerate(self._since) if message.role == "tool"]
        longest = max(results, key=lambda i: len(self._since[i].text), default=None)
        if longest is None or len(self._since[longest].text) <= _MIN_RESULT:
            return False
        text = self._since[longest].text
        self._since[longest] = replace(
            self._since[longest], text=text[: len(text) // 2] + "\n… (cut)"
        )
        return True

    async def _results(self, calls: Sequence[ToolCall]) -> AsyncGenerator[ToolUsed | Retrieved]:
        """All calls at once, each told when it is done; then what they found."""
        started, known = self._clock(), len(self._sources.hits)
        seconds = max(self._until - started, 0.0)
        most = max(self._model.abilities.context_window // _RESULT_SHARE, _MIN_RESULT)

        async def one(call: ToolCall) -> tuple[ToolCall, ToolUsed]:
            result = await run_tool(self._tools, call, seconds=seconds, max_chars=most)
            return call, ToolUsed(
                name=call.name,
                arguments=call.arguments,
                result=result.text,
                failed=result.failed,
                seconds=result.seconds,
            )

        results: dict[str, str] = {}
        tasks = [asyncio.create_task(one(call)) for call in calls]
        try:
            for done in asyncio.as_completed(tasks):
                call, used = await done
                results[call.id] = used.result
                self.tools_used.append(used)
                yield used
        finally:
            for task in tasks:
                task.cancel()
        self._since += [Message("tool", results[c.id], tool_call_id=c.id) for c in calls]
        if len(self._sources.hits) > known:
            yield Retrieved(tuple(self._sources.hits), self._clock() - started)
