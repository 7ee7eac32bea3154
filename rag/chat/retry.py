"""Another try, after a pause, when a model fails before it says anything."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

from rag.chat.wrapper import Wrapper
from rag.errors import (
    CircuitOpenError,
    ModelBusyError,
    ModelError,
    ModelStreamError,
    ModelTimeoutError,
    ModelUnavailableError,
)
from rag.types import ChatModel, ChatRequest, Delta, ModelEvent, Retried

if TYPE_CHECKING:
    from tenacity import AsyncRetrying, RetryCallState


class Retrying(Wrapper):
    """At most `attempts` calls; `deadline` is in seconds from the start to the first word.

    Pauses are `backoff`, or what the server asked for and up to `base` more. A pause that would
    pass the deadline is not begun, and a call that has said nothing by then is given up.
    """

    def __init__(
        self,
        model: ChatModel,
        *,
        attempts: int,
        base: float,
        maximum: float,
        deadline: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random.random,
    ) -> None:
        import tenacity

        super().__init__(model)
        self._tenacity = tenacity
        self._attempts = attempts
        self._base = base
        self._maximum = maximum
        self._deadline = deadline
        self._clock = clock
        self._sleep = sleep
        self._random = random

    async def chat(self, request: ChatRequest) -> AsyncGenerator[ModelEvent]:
        until = self._clock() + self._deadline
        error: ModelError | None = None
        async for attempt in self._tries(until):
            if error is not None:
                wait = attempt.retry_state.upcoming_sleep
                yield Retried(
                    model=self.name,
                    next_model=self.name,
                    code=error.code,
                    reason=error.message,
                    wait=wait,
                )
                await self._sleep(wait)
            said = False
            try:
                async with aclosing(self._model.chat(request)) as events:
                    while not said and (event := await self._next(events, until)) is not None:
                        said = isinstance(event, Delta) and event.says_something
                        yield event
                    async for event in events:
                        yield event
            except ModelError as failure:
                if said:
                    raise
                error = failure
            else:
                return
            # Nothing is given out in here: tenacity would swallow the closing of this generator.
            with attempt:
                raise error

    async def _next(self, events: AsyncGenerator[ModelEvent], until: float) -> ModelEvent | None:
        """None at the end."""
        try:
            async with asyncio.timeout(until - self._clock()):
                return await anext(events, None)
        except TimeoutError:
            raise ModelTimeoutError(
                f"{self.name} gave no word within {self._deadline:g} s.",
                "Ask again, or raise RAG_RETRY_DEADLINE.",
            ) from None

    def _tries(self, until: float) -> AsyncRetrying:
        """New for each call: what tenacity remembers is shared by all tasks of a thread."""

        def ends(state: RetryCallState) -> bool:
            spent = state.attempt_number >= self._attempts
            return spent or self._clock() + state.upcoming_sleep >= until

        return self._tenacity.AsyncRetrying(
            retry=self._tenacity.retry_if_exception(may_help),
            stop=ends,
            wait=self._wait,
            sleep=_leave_the_pause_to_us,
            reraise=True,
        )

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome and state.outcome.exception()
        wait = backoff(
            state.attempt_number - 1, base=self._base, maximum=self._maximum, random=self._random
        )
        if isinstance(error, ModelError) and error.retry_after is not None:
            return max(wait, error.retry_after + self._base * self._random())
        return wait


def backoff(n: int, *, base: float, maximum: float, random: Callable[[], float]) -> float:
    """The pause after the `n`-th failure, from 0, in seconds: 0..min(maximum, base * 2**n).

    "Full jitter" of AWS, "Exponential backoff and jitter". `random` gives 0..1.
    """
    return random() * min(maximum, base * 2.0**n)


def may_help(error: BaseException) -> bool:
    """Whether the same request may succeed in a moment."""
    return isinstance(
        error, ModelUnavailableError | ModelBusyError | ModelStreamError
    ) and not isinstance(error, CircuitOpenError)


async def _leave_the_pause_to_us(_seconds: float) -> None:
    """A `Retried` has to be given out before the pause, which tenacity cannot do."""
