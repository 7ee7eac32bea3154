"""A chat model round a chat model."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from rag.types import Abilities, ChatModel, ChatRequest, ModelEvent


class Wrapper:
    """Changes nothing; those that do override `chat`."""

    def __init__(self, model: ChatModel) -> None:
        self._model = model

    @property
    def name(self) -> str:
        return self._model.name

    @property
    def abilities(self) -> Abilities:
        return self._model.abilities

    async def chat(self, request: ChatRequest) -> AsyncGenerator[ModelEvent]:
        async with aclosing(self._model.chat(request)) as events:
            async for event in events:
                yield event

    async def aclose(self) -> None:
        await self._model.aclose()
