"""Several API keys for one model."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing

from rag.chat.wrapper import Wrapper
from rag.errors import ModelAuthError, ModelBusyError
from rag.records import KeyRejected, Listener, Record
from rag.types import ChatModel, ChatRequest, Delta, ModelEvent

_LOG = logging.getLogger("rag")


def _ignored(_record: Record) -> None:
    """Nobody listens."""


class KeyRing(Wrapper):
    """Takes turns between `models`, of which there is at least one: the same with other keys.

    A key that is rejected (401, 403) is set aside for `rest` seconds and the next one asked at
    once; so is the next one if a key is busy (429). Busy with all: ModelBusyError, with the
    shortest wait that a server named; all rejected: ModelAuthError. A single key is
    always asked, and its errors are raised as they are. `labels`, all different, name the keys
    without showing them; `listener` is told of every key that is set aside.
    """

    def __init__(
        self,
        models: Sequence[ChatModel],
        *,
        labels: Sequence[str],
        rest: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
        listener: Listener = _ignored,
    ) -> None:
        super().__init__(models[0])
        self._keys = tuple(zip(labels, models, strict=True))
        self._rest = rest
        self._clock = clock
        self._listener = listener
        self._turn = 0
        self._aside: dict[str, float] = {}  # until when, by label

    async def chat(self, request: ChatRequest) -> AsyncGenerator[ModelEvent]:
        busy: list[ModelBusyError] = []
        for label, model in self._usable():
            said = False
            try:
                async with aclosing(model.chat(request)) as events:
                    async for event in events:
                        said = said or (isinstance(event, Delta) and event.says_something)
                        yield event
            except ModelAuthError:
                if said:
                    raise
                self._reject(label)
                if len(self._keys) == 1:
                    raise
            except ModelBusyError as error:
                if said:
                    raise
                busy.append(error)
            else:
                return
        if busy:
            raise _shortest(busy)
        raise ModelAuthError(
            f"{self.name}: all {len(self._keys)} API keys were rejected.",
            f"Replace the keys, or wait: each is tried again {self._rest:g} s after that.",
        )

    def statuses(self) -> list[tuple[str, bool]]:
        """The label of every key, and whether it is set aside."""
        return [(label, self._is_aside(label)) for label, _ in self._keys]

    async def aclose(self) -> None:
        async with AsyncExitStack() as closing:  # all of them, even if one fails
            for _, model in self._keys:
                closing.push_async_callback(model.aclose)

    def _usable(self) -> list[tuple[str, ChatModel]]:
        """From the one whose turn it is."""
        if len(self._keys) == 1:
            return list(self._keys)
        usable = [key for key in self._keys if not self._is_aside(key[0])]
        first = self._turn % len(usable) if usable else 0
        self._turn += 1
        return usable[first:] + usable[:first]

    def _is_aside(self, label: str) -> bool:
        return self._clock() < self._aside.get(label, -math.inf)

    def _reject(self, label: str) -> None:
        if self._is_aside(label):
            return  # two calls at once had it rejected: told once
        self._aside[label] = self._clock() + self._rest
        self._listener(KeyRejected(model=self.name, key=label))
        _LOG.warning("%s: %s was rejected by the server.", self.name, label)


def _shortest(errors: Sequence[ModelBusyError]) -> ModelBusyError:
    """The last of `errors`, with the smallest `retry_after` of all."""
    waits = [error.retry_after for error in errors if error.retry_after is not None]
    last = errors[-1]
    last.retry_after = min(waits, default=None)
    return last
