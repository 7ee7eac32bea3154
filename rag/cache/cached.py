"""Answers that were given before are given again, and equal questions at once are asked once."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Literal

from rag.cache.flight import Ask, Flights, LocalFlights
from rag.cache.kept import Events, KeptAnswers
from rag.records import CacheAsked, Listener
from rag.types import Answer, AnswerEvent, Finished, Retried, Retrieved, Timings, Token

Keep = Callable[[Answer, Sequence[AnswerEvent]], bool]


def _everything(_: Answer, __: Sequence[AnswerEvent]) -> bool:
    return True


def _nobody(_: object) -> None:
    return None


class AnswerCache:
    """Answers by key (see `answer_key`), each kept for about `ttl` or `refusal_ttl` seconds.

    The times are spread by up to `spread` of themselves, so that answers kept together do not all
    run out together. Only answers that finished are kept, and of them those that `keep` wants.
    `flights` has to reach as far as `kept`: RedisFlights with InRedis.
    """

    def __init__(
        self,
        kept: KeptAnswers,
        *,
        ttl: float,
        refusal_ttl: float,
        spread: float = 0.1,
        flights: Flights | None = None,
        keep: Keep = _everything,
        random: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
        listener: Listener = _nobody,
    ) -> None:
        self._kept = kept
        self._ttl = ttl
        self._refusal_ttl = refusal_ttl
        self._spread = spread
        self._flights = flights or LocalFlights()
        self._keep = keep
        self._random = random
        self._clock = clock
        self._listener = listener

    async def answer(self, key: str | None, ask: Ask) -> AsyncGenerator[AnswerEvent]:
        """The events of a kept answer, else of the same answer under way, else of `ask`.

        An answer that cost nothing is marked `cached` and has the timings of this asker. Without
        a key, `ask` is asked and nothing kept. The listener is told once.
        """
        if key is None:
            self._listener(CacheAsked(result="bypassed"))
            answering = ask()
        else:
            replay = _Replay(self._clock)
            kept = await self._kept.get(key)
            if kept is not None:
                self._listener(CacheAsked(result="hit", saved=_cost(kept)))
                for event in kept:
                    yield replay.told(event)
                return
            answering = self._shared(key, ask, replay)
        async with aclosing(answering) as events:
            async for event in events:
                yield event

    async def clear(self) -> None:
        """Forgets all answers; those under way are kept when they finish."""
        await self._kept.clear()

    async def _shared(self, key: str, ask: Ask, replay: _Replay) -> AsyncGenerator[AnswerEvent]:
        result: Literal["joined", "hit", "miss"] = "joined"
        saved = 0.0

        async def flown() -> AsyncGenerator[AnswerEvent]:
            """Called only if this asker is the one who asks for all."""
            nonlocal result
            kept = await self._kept.get(key)  # another process may have kept it since we looked
            if kept is not None:
                result = "hit"
                for event in kept:
                    yield event
                return
            result = "miss"
            self._listener(CacheAsked(result="miss"))
            async with aclosing(self._keeping(key, ask)) as events:
                async for event in events:
                    yield event

        try:
            async with aclosing(self._flights.follow(key, flown)) as events:
                async for event in events:
                    if result == "miss":
                        yield event
                        continue
                    if isinstance(event, Finished):
                        saved = _cost((event,))
                    yield replay.told(event)
        finally:
            if result != "miss":
                self._listener(CacheAsked(result=result, saved=saved))

    async def _keeping(self, key: str, ask: Ask) -> AsyncGenerator[AnswerEvent]:
        """What `ask` tells. Who has seen it finish finds it kept."""
        told: list[AnswerEvent] = []
        async with aclosing(ask()) as events:
            async for event in events:
                told.append(event)
                if isinstance(event, Finished) and self._keep(event.answer, told):
                    await self._kept.put(key, _replayable(told), self._seconds(event.answer))
                yield event

    def _seconds(self, answer: Answer) -> float:
        about = self._refusal_ttl if answer.refused else self._ttl
        return about * (1 + self._spread * (2 * self._random() - 1))


class _Replay:
    """Tells events as if they had just come about, at the times of one asker."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = clock()
        self._retrieved = 0.0
        self._first_token: float | None = None

    def told(self, event: AnswerEvent) -> AnswerEvent:
        if isinstance(event, Token):
            if self._first_token is None:
                self._first_token = self._now()
        elif isinstance(event, Retrieved):
            self._retrieved = self._now()
            return Retrieved(event.hits, self._retrieved)
        elif isinstance(event, Finished):
            timings = Timings(
                retrieved=self._retrieved, first_token=self._first_token, total=self._now()
            )
            return Finished(replace(event.answer, cached=True, timings=timings))
        return event

    def _now(self) -> float:
        return self._clock() - self._started


def _replayable(events: Sequence[AnswerEvent]) -> Events:
    """Tries that failed the first time did not fail in a replay."""
    return tuple(event for event in events if not isinstance(event, Retried))


def _cost(events: Sequence[AnswerEvent]) -> float:
    last = events[-1]
    return (last.answer.usage.cost or 0.0) if isinstance(last, Finished) else 0.0
