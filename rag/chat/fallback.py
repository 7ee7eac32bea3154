"""The next model, when one fails before it says anything."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing

from rag.chat.wrapper import Wrapper
from rag.errors import BudgetError, ContextTooLongError, ModelError
from rag.types import ChatModel, ChatRequest, Delta, ModelEvent, Retried


class Fallback(Wrapper):
    """Asks `models`, of which there is at least one, in order; it is named after the first.

    When all fail, the error of the first is raised. When the request is too long for a model and
    no model that is left holds more, ContextTooLongError is raised.
    """

    def __init__(self, models: Sequence[ChatModel]) -> None:
        super().__init__(models[0])
        self._models = tuple(models)

    async def chat(self, request: ChatRequest) -> AsyncGenerator[ModelEvent]:
        first: ModelError | BudgetError | None = None
        left = deque(self._models)
        while True:
            model = left.popleft()
            said = False
            try:
                async with aclosing(model.chat(request)) as events:
                    async for event in events:
                        said = said or (isinstance(event, Delta) and event.says_something)
                        yield event
            except (ModelError, BudgetError) as failure:
                if said:
                    raise
                error = failure
            else:
                return
            first = first or error
            if isinstance(error, ContextTooLongError):
                left = deque(m for m in left if _window(m) > _window(model))
                if not left:
                    raise error
            if not left:
                raise first
            yield Retried(
                model=model.name,
                next_model=left[0].name,
                code=error.code,
                reason=error.message,
            )

    async def aclose(self) -> None:
        async with AsyncExitStack() as closing:  # all of them, even if one fails
            for model in self._models:
                closing.push_async_callback(model.aclose)


def _window(model: ChatModel) -> int:
    return model.abilities.context_window
