"""Single flight: who asks what is being answered already joins in, instead of asking again."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Protocol

from rag.errors import ModelStreamError
from rag.types import AnswerEvent, Failed, Finished, Held

Ask = Callable[[], AsyncGenerator[AnswerEvent]]


class Flights(Protocol):
    """Answers under way, by key."""

    def follow(self, key: str, ask: Ask) -> AsyncGenerator[AnswerEvent]:
        """The events of the answer under way, from its beginning; if there is none, of `ask`.

        A follower that goes away does not disturb the others; when the last one is gone, what was
        asked is cancelled. An exception of `ask` is raised for every follower.
        """
        ...


def broken_off(message: str = "The answer broke off before its end.") -> Failed:
    """The last event of an answer whose producer is gone."""
    return Failed(ModelStreamError.code, message, "Ask again.", ModelStreamError.retryable)


class Flight:
    """One run of `ask`, its events shared by all who hold on to it."""

    def __init__(self, ask: Ask) -> None:
        self.events: list[AnswerEvent] = []
        self.error: Exception | None = None
        self._traceback: TracebackType | None = None
        self._ask = ask
        self._ended = False
        self._news = asyncio.Event()
        self._holders = 0
        self.task = asyncio.create_task(self._fly())

    @property
    def landed(self) -> bool:
        """Whether the answer is whole, or has failed: nothing is left that could be cancelled."""
        last = self.events[-1] if self.events else None
        return self._ended or isinstance(last, Finished | Failed | Held)

    @property
    def dropped(self) -> bool:
        """Whether nobody is left to see the rest."""
        return self._holders == 0 and not self.landed

    def hold(self) -> None:
        self._holders += 1

    def release(self) -> None:
        self._holders -= 1
        if self.dropped:
            self.task.cancel()

    async def closed(self) -> None:
        """Waits until the run, and the model call in it, has ended."""
        await asyncio.wait([self.task])

    async def batches(self) -> AsyncGenerator[list[AnswerEvent]]:
        """All events, those that are there already together; ends with the run, error or not."""
        seen = 0
        while True:
            batch, news = self.events[seen:], self._news
            if batch:
                seen += len(batch)
                yield batch
            elif self._ended:
                return
            else:
                await news.wait()

    async def followed(self) -> AsyncGenerator[AnswerEvent]:
        """All events, one by one, held on to meanwhile. Raises what the run raised."""
        self.hold()
        try:
            async for batch in self.batches():
                for event in batch:
                    yield event
            if self.error is not None:
                # Not with the tracebacks of the other followers.
                raise self.error.with_traceback(self._traceback)
        finally:
            self.release()
            if self.dropped:
                await self.closed()

    async def _fly(self) -> None:
        try:
            async with aclosing(self._ask()) as events:
                async for event in events:
                    self.events.append(event)
                    self._tell()
                    if self.dropped:  # a library below has swallowed the cancellation
                        return
        except asyncio.CancelledError:
            self.events.append(broken_off())  # for followers who did not ask for it
            raise
        except Exception as error:  # noqa: BLE001 (every follower raises it again)
            self.error, self._traceback = error, error.__traceback__
        finally:
            self._ended = True
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class LocalFlights:
    """Single flight in this process; each event loop has its own flights."""

    def __init__(self) -> None:
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Flight]] = (
            weakref.WeakKeyDictionary()
        )

    async def follow(self, key: str, ask: Ask) -> AsyncGenerator[AnswerEvent]:
        async with aclosing(self._flight(key, ask).followed()) as events:
            async for event in events:
                yield event

    def _flight(self, key: str, ask: Ask) -> Flight:
        flights = self._loops.setdefault(asyncio.get_running_loop(), {})
        flight = flights.get(key)
        if flight is not None and not flight.landed and not flight.dropped:
            return flight
        new = flights[key] = Flight(ask)

        def over(_: object) -> None:
            if flights.get(key) is new:
                del flights[key]

        new.task.add_done_callback(over)
        return new
