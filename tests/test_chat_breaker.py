"""A model that fails too often is left alone, and tried again with care."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rag.chat.breaker import CircuitBreaker, CircuitStatus
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
from rag.records import CircuitChanged, Record
from rag.redis_link import RedisLink
from rag.shared import LocalState, RedisState
from rag.types import ModelEvent, SharedState
from tests.chat_fakes import ASK, FakeChat, FakeClock, Gate, Step, ask, collect, texts

T = TypeVar("T")
DEADLINE = 10.0  # a hang becomes a failure
DOWN = ModelUnavailableError("fake: the server failed (503).")


@dataclass
class Setup:
    """A breaker that opens after 3 failures in 60 s, probes after 30 s and closes after 2."""

    model: FakeChat
    clock: FakeClock
    breaker: CircuitBreaker
    told: list[Record]

    def plays(self, *scripts: Sequence[Step]) -> list[Exception | None]:
        """One call a script; the errors they ended with."""
        errors = []
        for script in scripts:
            self.model.scripts[:] = [script]
            errors.append(ask(self.breaker)[1])
        return errors

    def status(self) -> CircuitStatus:
        return asyncio.run(self.breaker.status())

    def states_told(self) -> list[str]:
        return [record.state for record in self.told if isinstance(record, CircuitChanged)]


def setup(
    state: SharedState | None = None, clock: FakeClock | None = None, *, probes: int = 1
) -> Setup:
    model, clock, told = FakeChat(), clock or FakeClock(), list[Record]()
    breaker = CircuitBreaker(
        model,
        state or LocalState(clock),
        failures=3,
        window=60.0,
        open_seconds=30.0,
        probes=probes,
        successes=2,
        clock=clock,
        listener=told.append,
    )
    return Setup(model, clock, breaker, told)


@pytest.fixture
def it() -> Setup:
    return setup()


@pytest.fixture
def opened(it: Setup) -> Setup:
    it.plays([DOWN], [DOWN], [DOWN])
    return it


@pytest.fixture
def half_open(opened: Setup) -> Setup:
    opened.clock.advance(30.0)
    return opened


def test_it_opens_after_so_many_failures_and_then_asks_nobody(it: Setup) -> None:
    it.plays([DOWN], [DOWN])
    assert it.status().state == "closed"
    it.plays([DOWN])
    assert it.status().state == "open"
    (error,) = it.plays(["fine"])
    assert isinstance(error, CircuitOpenError)
    assert len(it.model.requests) == 3
    assert it.states_told() == ["open"]


def test_the_rejection_names_the_model_and_the_seconds_left(opened: Setup) -> None:
    opened.clock.advance(12.0)
    (error,) = opened.plays(["fine"])
    assert isinstance(error, CircuitOpenError)
    assert error.retry_after == 18.0
    assert error.message == "fake has failed too often and is not asked for another 18 s."


def test_failures_older_than_the_window_do_not_count(it: Setup) -> None:
    it.plays([DOWN], [DOWN])
    it.clock.advance(60.0)
    it.plays([DOWN], [DOWN])
    assert it.status().state == "closed"
    assert it.status().recent_failures == 2


def test_successes_do_not_wipe_failures_from_the_window(it: Setup) -> None:
    it.plays([DOWN], ["fine"], [DOWN], ["fine"], [DOWN])
    assert it.status().state == "open"


@pytest.mark.parametrize(
    "kind",
    [ModelUnavailableError, ModelBusyError, ModelStreamError, ModelFormatError, ModelAuthError],
)
@pytest.mark.parametrize("before", [[], ["fi"]], ids=["at once", "in mid-stream"])
def test_what_counts_as_a_failure(it: Setup, kind: type[ModelError], before: list[Step]) -> None:
    errors = it.plays(*[[*before, kind("no")]] * 3)
    assert [type(error) for error in errors] == [kind] * 3
    assert it.status().state == "open"


@pytest.mark.parametrize("kind", [ModelRequestError, ContextTooLongError])
def test_a_refused_request_is_no_failure(it: Setup, kind: type[ModelError]) -> None:
    it.plays(*[[kind("no")]] * 5)
    assert it.status() == CircuitStatus(
        model="fake",
        state="closed",
        recent_failures=0,
        opened_at=None,
        probing_in=None,
        calls=5,
        failures=0,
        rejections=0,
    )


@pytest.mark.parametrize("answer", [["fine"], [ModelRequestError("400")]])
def test_it_closes_after_enough_calls_that_the_server_answered(
    half_open: Setup, answer: list[Step]
) -> None:
    half_open.plays(answer)
    assert half_open.status().state == "half_open"
    half_open.plays(answer)
    assert half_open.status().state == "closed"
    assert half_open.status().recent_failures == 0
    assert half_open.states_told() == ["open", "half_open", "closed"]


def test_a_failure_while_half_open_opens_it_again_for_as_long(half_open: Setup) -> None:
    half_open.plays(["fine"], [DOWN])
    assert half_open.status().state == "open"
    assert half_open.status().probing_in == 30.0
    half_open.clock.advance(30.0)
    half_open.plays(["fine"])
    assert half_open.status().state == "half_open"


def test_the_status_tells_what_was_counted(opened: Setup) -> None:
    since = opened.clock.now
    opened.clock.advance(10.0)
    opened.plays(["fine"], ["fine"])
    assert opened.status() == CircuitStatus(
        model="fake",
        state="open",
        recent_failures=3,
        opened_at=since,
        probing_in=20.0,
        calls=3,
        failures=3,
        rejections=2,
    )


def test_only_so_many_probes_are_under_way_at_once(half_open: Setup) -> None:
    async def run() -> None:
        gate = Gate()
        half_open.model.scripts[:] = [[gate, "fine"]]
        probe = asyncio.create_task(collect(half_open.breaker))
        await gate.reached()
        _, error = await asyncio.wait_for(collect(half_open.breaker), DEADLINE)
        assert isinstance(error, CircuitOpenError)
        assert error.retry_after is None
        gate.open()
        events, _ = await probe
        assert texts(events) == ["fine"]
        assert (await collect(half_open.breaker))[1] is None

    asyncio.run(run())
    assert half_open.status().state == "closed"


def test_a_probe_that_takes_too_long_gives_up_its_place_and_counts_when_it_ends(
    half_open: Setup,
) -> None:
    async def run() -> None:
        gate = Gate()
        half_open.model.scripts[:] = [[gate], ["fine"]]
        probe = asyncio.create_task(collect(half_open.breaker))
        await gate.reached()
        half_open.clock.advance(30.0)
        events, error = await collect(half_open.breaker)
        assert (texts(events), error) == (["fine"], None)
        assert (await half_open.breaker.status()).state == "half_open"
        gate.open()
        await probe

    asyncio.run(run())
    assert half_open.status().state == "closed"


def test_a_late_failure_from_before_does_not_open_it_again(it: Setup) -> None:
    async def run() -> None:
        gate = Gate()
        it.model.scripts[:] = [[gate, DOWN], [DOWN], [DOWN], [DOWN], ["fine"]]
        late = asyncio.create_task(collect(it.breaker))
        await gate.reached()
        for _ in range(3):
            await collect(it.breaker)
        it.clock.advance(30.0)
        await collect(it.breaker)
        gate.open()
        await late

    asyncio.run(run())
    assert it.status().state == "half_open"


class SlowState:
    """A `LocalState` that lets the loop turn, as a server across a network does."""

    def __init__(self, clock: FakeClock) -> None:
        self._state = LocalState(clock)

    async def change(
        self, key: str, step: Callable[[bytes | None], tuple[bytes | None, T]], *, keep: float
    ) -> T:
        for _ in range(5):
            await asyncio.sleep(0)
        return await self._state.change(key, step, keep=keep)

    async def aclose(self) -> None: ...


@pytest.mark.parametrize("cancels", [1, 2], ids=["once", "twice"])
def test_a_cancelled_probe_is_no_failure_and_frees_its_place(cancels: int) -> None:
    clock = FakeClock()
    it = setup(SlowState(clock), clock)
    it.plays([DOWN], [DOWN], [DOWN])
    clock.advance(30.0)

    async def run() -> None:
        gate = Gate()
        it.model.scripts[:] = [["fi", gate], ["fine"]]
        probe = asyncio.create_task(collect(it.breaker))
        await gate.reached()
        for _ in range(cancels):
            probe.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await probe
        await it.breaker.status()  # by then the place is free
        events, error = await collect(it.breaker)
        assert (texts(events), error) == (["fine"], None)

    asyncio.run(run())
    assert (it.status().state, it.status().failures) == ("half_open", 3)


def test_a_reader_that_goes_away_is_no_failure(half_open: Setup) -> None:
    async def run() -> None:
        half_open.model.scripts[:] = [["fi", "ne"]]
        for _ in range(3):
            events = half_open.breaker.chat(ASK)
            await anext(events)
            await events.aclose()

    asyncio.run(run())
    assert half_open.status().state == "half_open"
    assert half_open.model.left == 3


def test_a_call_of_a_healthy_model_changes_nothing_that_is_shared() -> None:
    seen: list[tuple[bytes | None, bytes | None]] = []

    class Watched(LocalState):
        async def change(
            self, key: str, step: Callable[[bytes | None], tuple[bytes | None, T]], *, keep: float
        ) -> T:
            def watched(old: bytes | None) -> tuple[bytes | None, T]:
                new, result = step(old)
                seen.append((old, new))
                return new, result

            return await super().change(key, watched, keep=keep)

    setup(Watched()).plays(["fine"])
    assert seen == [(None, None)]


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b'{"failures": [], "colour": 1}', b"\xff"])
def test_what_another_version_wrote_counts_as_nothing(value: bytes) -> None:
    state = LocalState()
    asyncio.run(state.change("breaker:fake", lambda _: (value, None), keep=60.0))
    assert setup(state).plays(["fine"]) == [None]


# --- any sequence of calls ----------------------------------------------------------------------


class AnySequence(RuleBasedStateMachine):
    """Against what the test itself counts: calls under way and the time they began."""

    @initialize(probes=st.integers(1, 3))
    def begin(self, probes: int) -> None:
        self.probes = probes
        self.loop = asyncio.Runner()
        self.it = setup(probes=probes)
        self.running: list[tuple[AsyncGenerator[ModelEvent], float | None]] = []

    def teardown(self) -> None:
        for events, _ in self.running:
            self.loop.run(events.aclose())
        self.loop.close()

    def state(self) -> str:
        return self.loop.run(self.it.breaker.status()).state

    def live_probes(self) -> int:
        now = self.it.clock.now
        return sum(began is not None and now < began + 30.0 for _, began in self.running)

    @rule(fails=st.booleans())
    def call(self, fails: bool) -> None:
        state, probes, asked = self.state(), self.live_probes(), len(self.it.model.requests)
        self.it.model.scripts[:] = [["a", DOWN] if fails else ["a", "b"]]
        events = self.it.breaker.chat(ASK)
        try:
            self.loop.run(_first(events))
        except CircuitOpenError:
            assert state == "open" or (state == "half_open" and probes == self.probes)
            assert len(self.it.model.requests) == asked
        else:
            assert state == "closed" or (state == "half_open" and probes < self.probes)
            self.running.append((events, None if state == "closed" else self.it.clock.now))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), leaves=st.booleans())
    def end(self, data: st.DataObject, leaves: bool) -> None:
        n = data.draw(st.integers(0, len(self.running) - 1))
        events, _ = self.running.pop(n)
        self.loop.run(events.aclose() if leaves else _rest(events))

    @rule(seconds=st.sampled_from([1.0, 10.0, 30.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.it.clock.advance(seconds)

    @invariant()
    def never_more_probes_than_allowed(self) -> None:
        assert self.live_probes() <= self.probes


async def _first(events: AsyncGenerator[ModelEvent]) -> None:
    await anext(events)


async def _rest(events: AsyncGenerator[ModelEvent]) -> None:
    try:
        async for _ in events:
            pass
    except ModelUnavailableError:
        pass


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


# --- several processes --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.redis
def test_breakers_of_two_processes_share_their_state_and_their_probes(redis_url: str) -> None:
    clock = FakeClock()

    async def run() -> None:
        states = [RedisState(RedisLink(redis_url), "breakers:") for _ in range(2)]
        one, two = (setup(state, clock) for state in states)
        one.model.scripts[:] = two.model.scripts[:] = [[DOWN]]
        for it in (one, two, one):
            await collect(it.breaker)
        assert isinstance((await collect(two.breaker))[1], CircuitOpenError)
        assert two.states_told() == ["open"]

        clock.advance(30.0)
        gate = Gate()
        one.model.scripts[:] = two.model.scripts[:] = [[gate, "fine"]]
        asked = len(one.model.requests) + len(two.model.requests)
        calls = [asyncio.create_task(collect(it.breaker)) for it in (one, two) * 10]
        await gate.reached()
        endings = asyncio.as_completed(calls, timeout=DEADLINE)
        for _ in range(19):
            assert isinstance((await next(endings))[1], CircuitOpenError)
        gate.open()
        assert (await next(endings))[1] is None
        assert len(one.model.requests) + len(two.model.requests) == asked + 1
        assert (await one.breaker.status()).state == "half_open"
        assert (await collect(two.breaker))[1] is None
        assert (await one.breaker.status()).state == "closed"
        for state in states:
            await state.aclose()

    asyncio.run(run())
