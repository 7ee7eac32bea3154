"""What each call of a model costs: held before it, counted after it, however it ends."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Protocol

from rag.chat.wrapper import Wrapper
from rag.errors import ModelFormatError, ModelStreamError, ModelTimeoutError, RagError
from rag.records import Called, Listener, Outcome
from rag.text import estimate_tokens
from rag.types import ChatModel, ChatRequest, Delta, Message, ModelEvent, ToolCall, Usage

_log = logging.getLogger("rag")
_NANO = 1_000_000_000

# A server counts pictures by their pixels, each maker in its own way: 765 to 1,105 tokens for a
# detailed one (OpenAI), at most 1,280 (Qwen-VL, as shipped) or about 1,600 (Anthropic).
IMAGE_TOKENS = 1_600
_MESSAGE_TOKENS = 4  # role and marks round each message
_SETTLE_SECONDS = 1.0  # that a stream's end waits for a slow database


class Price(Protocol):
    """In whole nano-dollars; `at` is when the call began, in seconds since 1970."""

    def cost(
        self, prompt_tokens: int, completion_tokens: int, *, at: float | None = None
    ) -> int: ...

    def worst(self, prompt_tokens: int, completion_tokens: int, *, at: float | None = None) -> int:
        """Of a call of up to so many tokens."""
        ...


class Ledger(Protocol):
    """Writes down what calls cost and holds money for them. Futures come from another thread."""

    @property
    def has_budgets(self) -> bool: ...

    def reserve_soon(self, model: str, caller: str, amount_nano: int) -> Future[Any]:
        """Holds the money. The future raises BudgetError if there is not enough."""
        ...

    def settle_soon(self, reservation: Any, call: Called) -> Future[None]:
        """Never fails; `reservation` is what `reserve_soon` gave, or None."""
        ...

    def release_soon(self, reservation: Any) -> Future[None]: ...


class Metered(Wrapper):
    """Gives the usage of each call with its cost, in one last piece; refuses a call that a budget
    cannot pay for, with BudgetError and before anything is sent.

    What a server refuses, or never got, is free. A reply that broke off, was cancelled, or was
    waited for in vain is charged by estimate, for the server worked. When the events have ended
    the cost can be read in the ledger, unless its database is slow. Every call that was sent ends
    in one `Called` for the `listener`. `price` is None if it is not known: such calls are counted,
    and no budget can hold them. `clock` measures, `wall` tells the time since 1970.
    """

    def __init__(
        self,
        model: ChatModel,
        price: Price | None,
        ledger: Ledger,
        listener: Listener,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(model)
        self._price = price
        self._ledger = ledger
        self._listener = listener
        self._clock = clock
        self._wall = wall
        if price is None and ledger.has_budgets:
            _log.warning(
                "What %s costs is not known, so no budget can hold it: set price_in and price_out.",
                model.name,
            )

    async def chat(self, request: ChatRequest) -> AsyncGenerator[ModelEvent]:
        reservation = await self._reserve(request)
        call = _Call(self.name, request, self._price, self._clock, self._wall)
        async with aclosing(self._model.chat(request)) as events:
            try:
                async for event in events:
                    for told in call.passed_on(event):
                        yield told
            except BaseException as error:
                settled = self._end(reservation, call.broken(error))
                if isinstance(error, Exception):
                    if call.held is not None:
                        yield replace(call.held, usage=None)
                    await _written(settled)
                raise
        ended = call.ended("ok", "", call.usage())
        settled = self._end(reservation, ended)
        yield replace(call.held or Delta(model=self.name), usage=ended.usage)
        await _written(settled)

    async def _reserve(self, request: ChatRequest) -> Any:
        """The most that the call may cost is held; None if there is nothing to hold."""
        if self._price is None or not self._ledger.has_budgets:
            return None
        prompt = prompt_tokens(request)
        room = max(self.abilities.context_window - prompt, 0)
        reply = request.max_tokens or self.abilities.max_output_tokens or room
        amount = self._price.worst(prompt, reply, at=self._wall())
        if amount == 0:
            return None
        pending = self._ledger.reserve_soon(self.name, request.context.caller, amount)
        try:
            return await asyncio.wrap_future(pending)
        except asyncio.CancelledError:
            if not pending.cancel():
                pending.add_done_callback(self._give_back)
            raise

    def _give_back(self, reserved: Future[Any]) -> None:
        if not reserved.cancelled() and reserved.exception() is None:
            self._ledger.release_soon(reserved.result())

    def _end(self, reservation: Any, call: Called) -> Future[None]:
        """Waits for nothing: it may be that nobody waits for us any more."""
        settled = self._ledger.settle_soon(reservation, call)
        self._listener(call)
        return settled


class _Call:
    """One call as it goes. `held` is a piece that may be the last, and is to carry the cost."""

    def __init__(
        self,
        model: str,
        request: ChatRequest,
        price: Price | None,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self.held: Delta | None = None
        self._model = model
        self._request = request
        self._price = price
        self._clock = clock
        self._at = wall()
        self._start = clock()
        self._began = False
        self._first_token: float | None = None
        self._texts: list[str] = []
        self._tool_calls: list[ToolCall] = []
        self._reported: Usage | None = None

    def passed_on(self, event: ModelEvent) -> Iterator[ModelEvent]:
        """What goes out now. Some servers report their usage so far with every piece."""
        if self.held is not None:
            held, self.held = replace(self.held, usage=None), None
            if held.says_something or held.finish_reason:
                yield held
        if not isinstance(event, Delta):
            yield event
            return
        self._note(event)
        if event.usage is None:
            yield event
        elif event.finish_reason or not event.says_something:
            self.held = replace(event, model=event.model or self._model)
        else:
            yield replace(event, usage=None)

    def _note(self, piece: Delta) -> None:
        self._began = True
        if piece.says_something and self._first_token is None:
            self._first_token = self._clock() - self._start
        self._texts.append(piece.text)
        self._tool_calls.extend(piece.tool_calls)
        if piece.usage is not None and (piece.usage.prompt_tokens or piece.usage.completion_tokens):
            self._reported = piece.usage

    def broken(self, error: BaseException) -> Called:
        if not isinstance(error, Exception):  # cancelled, or closed by who listened
            return self.ended("cancelled", "", self.usage())
        code = error.code if isinstance(error, RagError) else RagError.code
        return self.ended("failed", code, self.usage() if self._worked(error) else Usage(cost=0.0))

    def _worked(self, error: Exception) -> bool:
        """Whether the server did anything that it will charge."""
        charged = (ModelStreamError, ModelFormatError, ModelTimeoutError)
        return self._began or isinstance(error, charged)

    def usage(self) -> Usage:
        """As reported, else estimated; with its cost."""
        usage = self._reported
        if usage is None:
            reply = estimate_tokens("".join(self._texts)) + _tokens_of(self._tool_calls)
            usage = Usage(prompt_tokens(self._request), reply, estimated=True)
        if self._price is None:
            return usage
        nano = self._price.cost(usage.prompt_tokens, usage.completion_tokens, at=self._at)
        return replace(usage, cost=nano / _NANO)

    def ended(self, outcome: Outcome, code: str, usage: Usage) -> Called:
        return Called(
            at=self._at,
            model=self._model,
            outcome=outcome,
            code=code,
            usage=usage,
            seconds=self._clock() - self._start,
            first_token=self._first_token,
            request=self._request,
            reply="".join(self._texts),
        )


def prompt_tokens(request: ChatRequest) -> int:
    """About what a server will count of the request, on the high side."""
    described = [[tool.name, tool.description, tool.parameters] for tool in request.tools]
    told = [
        json.dumps(part, ensure_ascii=False, default=dict)
        for part in (described, request.schema)
        if part
    ]
    return sum(map(_message_tokens, request.messages)) + sum(map(estimate_tokens, told))


def _message_tokens(message: Message) -> int:
    words = estimate_tokens(message.text) + _tokens_of(message.tool_calls)
    return _MESSAGE_TOKENS + words + IMAGE_TOKENS * len(message.images)


def _tokens_of(calls: Iterable[ToolCall]) -> int:
    return sum(estimate_tokens(call.name) + estimate_tokens(call.arguments) for call in calls)


async def _written(settled: Future[None]) -> None:
    """The cost can be read in the ledger now, unless its database is slow."""
    await asyncio.wait([asyncio.wrap_future(settled)], timeout=_SETTLE_SECONDS)
