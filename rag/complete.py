"""The rest of a file that is being written, from a model that has seen the documents."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from rag.errors import ModelStreamError, RagError
from rag.prompt import FenceStripper, Preset, build_completion
from rag.retrieve import Retrieves
from rag.types import (
    Answer,
    AnswerEvent,
    CallContext,
    ChatModel,
    ChatRequest,
    Failed,
    Filters,
    Finished,
    Retried,
    Retrieved,
    Timings,
    Token,
    Usage,
)

_QUESTION_CHARACTERS = 500  # of the text before the cursor, to find passages with


async def complete(
    before: str,
    after: str,
    *,
    name: str,
    preset: Preset,
    retriever: Retrieves,
    model: ChatModel,
    filters: Filters,
    top_k: int,
    stream: bool,
    max_tokens: int,
    temperature: float | None,
    context: CallContext,
) -> AsyncGenerator[AnswerEvent]:
    """Retrieved, then Token as they come, then exactly one of Finished and Failed.

    `name` is the file's. The text is what belongs at the cursor and nothing round it.
    """
    began = time.monotonic()
    try:
        question = before[-_QUESTION_CHARACTERS:]
        hits = await asyncio.to_thread(
            retriever.retrieve, question, top_k=top_k, filters=filters, threshold=None
        )
        retrieved = time.monotonic() - began
        yield Retrieved(tuple(hits), retrieved)
        messages = build_completion(
            before,
            after,
            hits,
            budget=model.abilities.context_window - max_tokens,
            filename=name,
            preset=preset,
        )
        request = ChatRequest(
            messages=messages,
            stream=stream,
            max_tokens=max_tokens,
            temperature=temperature,
            context=context,
        )
        stripper, parts, first = FenceStripper(), list[str](), None
        usage, wrote = Usage(), model.name
        async with aclosing(model.chat(request)) as events:
            async for event in events:
                if isinstance(event, Retried):
                    yield event
                    continue
                usage, wrote = event.usage or usage, event.model or wrote
                if text := stripper.feed(event.text):
                    first = first or time.monotonic() - began
                    parts.append(text)
                    yield Token(text)
        if text := stripper.finish():
            parts.append(text)
            yield Token(text)
        if not parts:
            raise ModelStreamError(f"{wrote} answered with no text.", "Ask again.")
        timings = Timings(retrieved=retrieved, first_token=first, total=time.monotonic() - began)
        yield Finished(
            Answer(
                text="".join(parts),
                refused=False,
                citations=(),
                model=wrote,
                usage=usage,
                timings=timings,
            )
        )
    except RagError as error:
        yield Failed(error.code, error.message, error.hint, error.retryable)
