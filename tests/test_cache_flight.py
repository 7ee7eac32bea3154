"""Many equal questions at once, one call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from rag.cache import LocalFlights
from rag.records import CacheAsked
from rag.types import AnswerEvent, Failed, Finished, Retrieved, Timings, Token
from tests.test_cache import (
    FAILED,
    HIT,
    RETRIED,
    Asked,
    Clock,
    all_of,
    answer_of,
    cache,
    finished,
    run,
    text_of,
)

TWO = (Token("one "), Token("two"), finished("one two"))


class Follower:
    """Someone who asks, event by event."""

    def __init__(self, events: AsyncGenerator[AnswerEvent]) -> None:
        self.seen: list[AnswerEvent] = []
        self._events = events
        self._more = asyncio.Event()
        self.task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async with aclosing(self._events):
            async for event in self._events:
                self.seen.append(event)
                self._more.set()

    async def has(self, number: int) -> None:
        while len(self.seen) < number:
            self._more.clear()
            await self._more.wait()

    async def leaves(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


def test_a_hundred_equal_questions_at_once_are_asked_once_and_all_stream() -> None:
    async def scene() -> None:
        answers, records = cache()
        asked = Asked(*TWO, gated=True)
        followers = [Follower(answers.answer("k", asked)) for _ in range(100)]
        asked.gates[0].set()
        await asyncio.gather(*(follower.has(1) for follower in followers))
        assert all(follower.seen == [TWO[0]] for follower in followers)
        asked.open()
        await asyncio.gather(*(follower.task for follower in followers))
        assert asked.calls == asked.closed == 1
        assert {text_of(follower.seen) for follower in followers} == {"one two"}
        assert [answer_of(follower.seen).cached for follower in followers] == [False] + [True] * 99
        assert records.count(CacheAsked(result="miss")) == 1
        assert records.count(CacheAsked(result="joined", saved=0.25)) == 99

    run(scene())


def test_who_comes_late_gets_everything_from_the_beginning() -> None:
    async def scene() -> None:
        answers, _ = cache()
        asked = Asked(Retrieved((HIT,), 0.5), RETRIED, *TWO, gated=True)
        first = Follower(answers.answer("k", asked))
        for gate in asked.gates[:3]:
            gate.set()
        await first.has(3)
        late = Follower(answers.answer("k", Asked(FAILED)))
        await late.has(3)
        assert late.seen[1:] == first.seen[1:]
        asked.open()
        await asyncio.gather(first.task, late.task)
        assert text_of(late.seen) == "one two"

    run(scene())


def test_who_joins_gets_the_times_of_its_own_waiting() -> None:
    async def scene() -> None:
        clock = Clock()
        answers, _ = cache(clock=clock)
        asked = Asked(*TWO, gated=True)
        first = Follower(answers.answer("k", asked))
        clock.now += 10
        asked.gates[0].set()
        await first.has(1)
        late = Follower(answers.answer("k", asked))
        await late.has(1)
        clock.now += 1
        asked.open()
        await asyncio.gather(first.task, late.task)
        assert answer_of(late.seen).timings == Timings(retrieved=0.0, first_token=0.0, total=1.0)
        assert answer_of(first.seen).timings == answer_of(TWO).timings

    run(scene())


@pytest.mark.parametrize("leaver", [0, 1], ids=["who asked first", "who joined"])
def test_who_leaves_does_not_disturb_the_others(leaver: int) -> None:
    async def scene() -> None:
        answers, records = cache()
        asked = Asked(*TWO, gated=True)
        followers = [Follower(answers.answer("k", asked)) for _ in range(3)]
        asked.gates[0].set()
        await asyncio.gather(*(follower.has(1) for follower in followers))
        await followers.pop(leaver).leaves()
        assert not asked.closed
        asked.open()
        await asyncio.gather(*(follower.task for follower in followers))
        assert [text_of(follower.seen) for follower in followers] == ["one two"] * 2
        assert asked.calls == 1
        assert sorted(record.result for record in records) == ["joined", "joined", "miss"]
        replayed = await all_of(answers.answer("k", Asked(FAILED)))
        assert text_of(replayed) == "one two"

    run(scene())


def test_when_the_last_one_leaves_the_call_is_cancelled_and_nothing_kept() -> None:
    async def scene() -> None:
        answers, _ = cache()
        asked = Asked(*TWO, gated=True)
        followers = [Follower(answers.answer("k", asked)) for _ in range(2)]
        asked.gates[0].set()
        for follower in followers:
            await follower.has(1)
        await followers[0].leaves()
        assert asked.closed == 0
        await followers[1].leaves()
        assert asked.closed == 1  # already when the last one has left
        again = Asked(*TWO)
        assert text_of(await all_of(answers.answer("k", again))) == "one two"
        assert again.calls == 1

    run(scene())


def test_closing_the_stream_is_leaving_too() -> None:
    async def scene() -> None:
        answers, _ = cache()
        asked = Asked(*TWO, gated=True)
        asked.gates[0].set()
        async with aclosing(answers.answer("k", asked)) as events:
            await anext(events)
        assert asked.closed == 1

    run(scene())


def test_who_leaves_before_the_first_event_cancels_too() -> None:
    async def scene() -> None:
        answers, _ = cache()
        started = asyncio.Event()
        stopped = asyncio.Event()

        async def ask() -> AsyncGenerator[AnswerEvent]:
            started.set()
            try:
                await asyncio.Event().wait()
                yield FAILED
            finally:
                stopped.set()

        follower = Follower(answers.answer("k", ask))
        await started.wait()
        await follower.leaves()
        assert stopped.is_set()

    run(scene())


def test_a_call_that_swallows_its_cancellation_ends_with_its_next_event() -> None:
    async def scene() -> None:
        answers, _ = cache()
        told = []

        async def ask() -> AsyncGenerator[AnswerEvent]:
            yield Token("one")
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            for number in range(10):
                told.append(number)
                yield Token("more")

        follower = Follower(answers.answer("k", ask))
        await follower.has(1)
        await follower.leaves()
        assert told == [0]

    run(scene())


def test_a_question_asked_while_the_same_one_is_being_cancelled_is_asked_anew() -> None:
    async def scene() -> None:
        answers, _ = cache()
        may_stop, stopping = asyncio.Event(), asyncio.Event()

        async def slow_to_stop() -> AsyncGenerator[AnswerEvent]:
            try:
                yield Token("old")
                await asyncio.Event().wait()
            finally:
                stopping.set()
                await may_stop.wait()

        old = Follower(answers.answer("k", slow_to_stop))
        await old.has(1)
        old.task.cancel()
        await stopping.wait()
        assert text_of(await all_of(answers.answer("k", Asked(*TWO)))) == "one two"
        may_stop.set()
        await asyncio.wait([old.task])

    run(scene())


def test_who_leaves_after_the_end_cancels_nothing() -> None:
    async def scene() -> None:
        answers, _ = cache()
        asked = Asked(finished("done"))
        noted = asyncio.Event()
        cancelled = False

        async def ask() -> AsyncGenerator[AnswerEvent]:
            nonlocal cancelled
            async for event in asked():
                yield event
            try:
                await asyncio.sleep(0)  # what it does behind the answer, in its own time
            except asyncio.CancelledError:
                cancelled = True
                raise
            finally:
                noted.set()

        async with aclosing(answers.answer("k", ask)) as events:
            assert isinstance(await anext(events), Finished)
        await noted.wait()
        assert not cancelled

    run(scene())


def test_a_failure_reaches_everyone_and_is_not_kept() -> None:
    async def scene() -> None:
        answers, records = cache()
        asked = Asked(Token("half"), FAILED, gated=True)
        followers = [Follower(answers.answer("k", asked)) for _ in range(5)]
        asked.gates[0].set()
        await asyncio.gather(*(follower.has(1) for follower in followers))
        asked.open()
        await asyncio.gather(*(follower.task for follower in followers))
        assert all(follower.seen == [Token("half"), FAILED] for follower in followers)
        assert sum(record.saved for record in records) == 0
        assert text_of(await all_of(answers.answer("k", Asked(*TWO)))) == "one two"

    run(scene())


def test_an_exception_reaches_everyone_and_the_next_one_asks_anew() -> None:
    async def scene() -> None:
        answers, _ = cache()
        asked = Asked(OSError("no disk"), gated=True)
        again = Asked(*TWO)

        async def asks_twice() -> str:
            with pytest.raises(OSError, match="no disk"):
                await all_of(answers.answer("k", asked))
            return text_of(await all_of(answers.answer("k", again)))

        askers = [asyncio.create_task(asks_twice()) for _ in range(5)]
        await asyncio.sleep(0)  # everybody has joined
        asked.open()
        assert await asyncio.gather(*askers) == ["one two"] * 5
        assert asked.calls == again.calls == 1

    run(scene())


def test_a_call_cancelled_by_others_ends_as_failed() -> None:
    async def scene() -> None:
        async def ask() -> AsyncGenerator[AnswerEvent]:
            yield Token("half")
            raise asyncio.CancelledError

        _, last = await all_of(LocalFlights().follow("k", ask))
        assert isinstance(last, Failed)
        assert (last.code, last.retryable) == ("model_stream", True)

    run(scene())


def test_a_slow_reader_holds_nobody_up() -> None:
    async def scene() -> None:
        answers, _ = cache()
        asked = Asked(*TWO)
        async with aclosing(answers.answer("k", asked)) as slow:
            assert await anext(slow) == TWO[0]
            quick = await all_of(answers.answer("k", asked))
            assert text_of(quick) == "one two"
            assert await anext(slow) == TWO[1]
        assert asked.calls == 1

    run(scene())


def test_different_questions_fly_side_by_side() -> None:
    async def scene() -> None:
        answers, _ = cache()
        asked = [Asked(Token(str(n)), finished(str(n))) for n in range(20)]
        told = await asyncio.gather(
            *(all_of(answers.answer(str(n), a)) for n, a in enumerate(asked))
        )
        assert [text_of(events) for events in told] == [str(n) for n in range(20)]

    run(scene())


def test_one_cache_serves_one_event_loop_after_another() -> None:
    answers, records = cache()
    for _ in range(2):
        run(all_of(answers.answer("k", Asked(*TWO))))
    run(all_of(answers.answer("other", Asked(*TWO))))
    assert [record.result for record in records] == ["miss", "hit", "miss"]


def test_nothing_is_left_of_flights_that_are_over() -> None:
    async def scene() -> None:
        flights = LocalFlights()
        await all_of(flights.follow("k", Asked(*TWO)))
        await asyncio.sleep(0)  # the tasks' last callbacks
        assert not any(flights._loops.values())

    run(scene())
