"""Answers that a person has to approve are held back before anyone reads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from rag.prompt import REFUSAL
from rag.types import Answer, AnswerEvent, Failed, Finished, Held, Hit, Retried, Retrieved

Reason = Callable[[Sequence[Hit]], str]
"""Why answers from these hits need approval; "" if they do not."""
Hold = Callable[[Answer, str], str]
"""Keeps the answer and the reason; returns the id of its review."""


async def released(
    events: AsyncGenerator[AnswerEvent], reason: Reason, hold: Hold
) -> AsyncGenerator[AnswerEvent]:
    """The events as they are, or in place of the answer one Held.

    What a model finds by searching for itself may be what needs approval, so where anything may
    need it, text waits until the answer is whole. A refusal in the words we ask for needs none.
    """
    waiting: list[AnswerEvent] = []
    hits: tuple[Hit, ...] = ()
    async with aclosing(events):
        async for event in events:
            match event:
                case Retrieved():
                    hits = event.hits
                    yield event
                case Retried() | Failed():
                    yield event
                case Finished():
                    why = (
                        ""
                        if _plain_refusal(event.answer)
                        else await asyncio.to_thread(reason, hits)
                    )
                    if why:
                        yield Held(await asyncio.to_thread(hold, event.answer, why), why)
                        continue
                    for each in waiting:
                        yield each
                    yield event
                case _:
                    waiting.append(event)


def _plain_refusal(answer: Answer) -> bool:
    return answer.refused and answer.text.strip() in REFUSAL.values()
