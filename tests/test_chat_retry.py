"""Another try after a pause: when, how long, and never after the first word."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.chat.retry import Retrying, backoff
from rag.errors import (
    CircuitOpenError,
    ContextTooLongError,
    ModelAuthError,
    ModelBusyError,
    ModelError,
    ModelFormatError,
    ModelRequestError,
    ModelStreamError,
    ModelUnavailableError,
)
from rag.types import Delta, Retried
from tests.chat_fakes import ASK, STOP, FakeChat, FakeClock, Gate, Step, ask, collect, texts

DOWN = ModelUnavailableError("fake: the server failed (503).")


def retrying(model: FakeChat, clock: FakeClock, **options: float) -> Retrying:
    settings: dict[str, float] = {"attempts": 4, "base": 0.5, "maximum": 20.0, "deadline": 90.0}
    settings |= options
    return Retrying(
        model,
        attempts=int(settings.pop("attempts")),
        clock=clock,
        sleep=clock.sleep,
        random=lambda: 1.0,
        **settings,
    )


def test_a_failure_is_told_before_the_pause_and_then_tried_again() -> None:
    model, clock = FakeChat([DOWN], ["fine"]), FakeClock()

    async def run() -> None:
        async with aclosing(retrying(model, clock).chat(ASK)) as events:
            told = await anext(events)
            assert told == Retried(
                model="fake",
                next_model="fake",
                code="model_unavailable",
                reason="fake: the server failed (503).",
                wait=0.5,
            )
            assert clock.slept == []
            assert await anext(events) == Delta("fine", model="fake")
            assert clock.slept == [0.5]

    asyncio.run(run())


def test_pauses_double_up_to_the_maximum() -> None:
    model, clock = FakeChat([DOWN]), FakeClock()
    _, error = ask(retrying(model, clock, attempts=6, maximum=3.0))
    assert clock.slept == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert error is DOWN
    assert len(model.requests) == 6


@pytest.mark.parametrize("kind", [ModelUnavailableError, ModelBusyError, ModelStreamError])
def test_what_may_pass_is_tried_again(kind: type[ModelError]) -> None:
    events, error = ask(retrying(FakeChat([kind("no")], ["fine"]), FakeClock()))
    assert error is None
    assert texts(events) == ["fine"]


@pytest.mark.parametrize(
    "kind",
    [ModelAuthError, ModelRequestError, ContextTooLongError, ModelFormatError, CircuitOpenError],
)
def test_what_will_not_pass_is_raised_at_once(kind: type[ModelError]) -> None:
    model, clock = FakeChat([kind("no")], ["fine"]), FakeClock()
    events, failure = ask(retrying(model, clock))
    assert type(failure) is kind
    assert (events, clock.slept, len(model.requests)) == ([], [], 1)


def test_nothing_is_tried_again_after_the_first_word() -> None:
    model = FakeChat(["fi", ModelStreamError("cut")], ["fine"])
    events, error = ask(retrying(model, FakeClock()))
    assert texts(events) == ["fi"]
    assert isinstance(error, ModelStreamError)
    assert len(model.requests) == 1


def test_an_empty_delta_is_not_a_word() -> None:
    events, error = ask(retrying(FakeChat([Delta(), DOWN], ["fine", STOP]), FakeClock()))
    assert error is None
    assert texts(events) == ["fine"]


def test_a_reply_without_words_is_a_reply() -> None:
    model = FakeChat([STOP])
    assert ask(retrying(model, FakeClock())) == ([STOP], None)


def test_the_server_is_left_alone_for_as_long_as_it_asked() -> None:
    model, clock = FakeChat([ModelBusyError("busy", retry_after=7.0)], ["fine"]), FakeClock()
    ask(retrying(model, clock))
    assert clock.slept == [7.5]


def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    model, clock = FakeChat([ModelBusyError("busy", retry_after=90.0)], ["fine"]), FakeClock()
    events, error = ask(retrying(model, clock))
    assert isinstance(error, ModelBusyError)
    assert (events, clock.slept) == ([], [])


def test_a_model_that_says_nothing_is_given_up_at_the_deadline() -> None:
    async def run() -> None:
        model = FakeChat([Delta(), Gate()])
        with pytest.raises(ModelUnavailableError, match=r"no word within 0\.01 s"):
            async for _ in retrying(model, FakeClock(), deadline=0.01, base=1.0).chat(ASK):
                pass
        assert (model.left, len(model.requests)) == (1, 1)

    asyncio.run(run())


def test_a_later_try_has_only_what_is_left_until_the_deadline() -> None:
    async def run() -> None:
        model, clock = FakeChat([DOWN], [Gate()]), FakeClock()
        wrapped = retrying(model, clock, deadline=30.01, base=30.0, maximum=30.0)
        _, error = await asyncio.wait_for(collect(wrapped), 3.0)
        assert isinstance(error, ModelUnavailableError)
        assert len(model.requests) == 2

    asyncio.run(run())


def test_the_deadline_does_not_end_a_reply_that_has_begun() -> None:
    async def run() -> None:
        clock, gate = FakeClock(), Gate()
        wrapped = retrying(FakeChat(["a", gate, "b"]), clock, deadline=5.0)

        async def open_late() -> None:
            await gate.reached()
            for _ in range(5):
                await asyncio.sleep(0)
            gate.open()

        opening = asyncio.create_task(open_late())
        async with aclosing(wrapped.chat(ASK)) as events:
            assert texts([await anext(events)]) == ["a"]
            clock.advance(10.0)
            assert texts([await anext(events)]) == ["b"]
        await opening

    asyncio.run(run())


def test_leaving_during_the_pause_ends_everything() -> None:
    model, clock = FakeChat([DOWN], ["fine"]), FakeClock()

    async def run() -> None:
        events = retrying(model, clock).chat(ASK)
        await anext(events)
        await events.aclose()

    asyncio.run(run())
    assert (len(model.requests), model.under_way, clock.slept) == (1, 0, [])


def test_many_calls_at_once_do_not_mix_their_tries() -> None:
    clock = FakeClock()

    async def one(n: int) -> int:
        gate = Gate()
        gate.open()
        failing: list[Step] = [gate, DOWN]
        model = FakeChat(*[failing] * n, ["fine"])
        events = [e async for e in retrying(model, clock, attempts=8, maximum=0.1).chat(ASK)]
        assert texts(events) == ["fine"]
        return len(model.requests)

    async def run() -> list[int]:
        return list(await asyncio.gather(*(one(n) for n in range(7))))

    assert asyncio.run(run()) == [1, 2, 3, 4, 5, 6, 7]


seconds = st.floats(min_value=0.001, max_value=300)


@given(n=st.integers(0, 1000), base=seconds, maximum=seconds, r=st.floats(0, 1))
def test_the_backoff_stays_inside_its_bounds(n: int, base: float, maximum: float, r: float) -> None:
    wait = backoff(n, base=base, maximum=maximum, random=lambda: r)
    assert 0 <= wait <= maximum
    if n < 64:
        assert wait <= base * 2**n


@given(
    asked=st.lists(st.none() | st.floats(0, 60), min_size=1, max_size=8),
    base=seconds,
    maximum=seconds,
    deadline=seconds,
    attempts=st.integers(1, 8),
    r=st.floats(0, 1),
)
def test_the_pauses_obey_the_server_and_never_pass_the_deadline(
    asked: list[float | None],
    base: float,
    maximum: float,
    deadline: float,
    attempts: int,
    r: float,
) -> None:
    clock = FakeClock(0.0)
    model = FakeChat(*([ModelBusyError("busy", retry_after=wait)] for wait in asked), ["fine"])
    wrapped = Retrying(
        model,
        attempts=attempts,
        base=base,
        maximum=maximum,
        deadline=deadline,
        clock=clock,
        sleep=clock.sleep,
        random=lambda: r,
    )
    events, _ = ask(wrapped)
    assert clock.now < deadline
    assert len(model.requests) <= attempts
    assert [e.wait for e in events if isinstance(e, Retried)] == clock.slept
    for wait, slept in zip(asked, clock.slept, strict=False):
        assert slept >= (wait or 0.0)
