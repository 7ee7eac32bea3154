"""Several keys for one model: turns, rejected keys, busy keys."""

from __future__ import annotations

import asyncio
import logging

import pytest

from rag.chat.keys import KeyRing
from rag.errors import ModelAuthError, ModelBusyError, ModelStreamError, ModelUnavailableError
from rag.records import KeyRejected, Record
from tests.chat_fakes import ASK, FakeChat, FakeClock, ask, texts

REJECTED = ModelAuthError("fake: the server rejected the API key (401).")


def labels(count: int) -> list[str]:
    return [f"key {n} of {count} in SOME_KEY" for n in range(1, count + 1)]


def ring(
    *models: FakeChat, clock: FakeClock | None = None, told: list[Record] | None = None
) -> KeyRing:
    told = [] if told is None else told
    clock = clock or FakeClock()
    return KeyRing(
        models, labels=labels(len(models)), rest=300.0, clock=clock, listener=told.append
    )


def asked(models: list[FakeChat]) -> list[int]:
    return [len(model.requests) for model in models]


def test_keys_take_turns() -> None:
    models = [FakeChat(), FakeChat(), FakeChat()]
    keys = ring(*models)
    for counts in ([1, 0, 0], [1, 1, 0], [1, 1, 1], [2, 1, 1]):
        ask(keys)
        assert asked(models) == counts


def test_a_rejected_key_is_set_aside_told_and_the_next_asked_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    models, told = [FakeChat([REJECTED]), FakeChat(["fine"])], list[Record]()
    keys = ring(*models, told=told)
    with caplog.at_level(logging.WARNING, logger="rag"):
        for _ in range(4):
            events, error = ask(keys)
            assert error is None
            assert texts(events) == ["fine"]
    assert asked(models) == [1, 4]
    assert told == [KeyRejected(model="fake", key="key 1 of 2 in SOME_KEY")]
    assert keys.statuses() == [("key 1 of 2 in SOME_KEY", True), ("key 2 of 2 in SOME_KEY", False)]
    assert caplog.messages == ["fake: key 1 of 2 in SOME_KEY was rejected by the server."]


def test_a_renewed_key_comes_back_by_itself() -> None:
    models, clock = [FakeChat([REJECTED], ["again"]), FakeChat(["fine"])], FakeClock()
    keys = ring(*models, clock=clock)
    ask(keys)
    clock.advance(300.0)
    assert [aside for _, aside in keys.statuses()] == [False, False]
    assert {*texts(ask(keys)[0]), *texts(ask(keys)[0])} == {"again", "fine"}


def test_all_rejected_says_how_many_and_asks_nobody_until_the_rest_is_over() -> None:
    models, clock = [FakeChat([REJECTED]), FakeChat([REJECTED])], FakeClock()
    keys = ring(*models, clock=clock)
    for _ in range(2):
        _, error = ask(keys)
        assert isinstance(error, ModelAuthError)
        assert error.message == "fake: all 2 API keys were rejected."
    assert asked(models) == [1, 1]


def test_a_busy_key_gives_way_to_the_next_and_is_not_set_aside() -> None:
    models = [FakeChat([ModelBusyError("busy")]), FakeChat(["fine"])]
    keys = ring(*models)
    assert texts(ask(keys)[0]) == ["fine"]
    assert [aside for _, aside in keys.statuses()] == [False, False]


@pytest.mark.parametrize(
    ("waits", "shortest"), [((9.0, 3.0, None), 3.0), ((None, None, None), None), ((1, 2, 3), 1)]
)
def test_all_busy_raises_the_last_with_the_shortest_wait(
    waits: tuple[float | None, ...], shortest: float | None
) -> None:
    models = [FakeChat([ModelBusyError(str(n), retry_after=w)]) for n, w in enumerate(waits)]
    _, error = ask(ring(*models))
    assert isinstance(error, ModelBusyError)
    assert (error.message, error.retry_after) == ("2", shortest)


def test_busy_counts_more_than_rejected() -> None:
    models = [FakeChat([ModelBusyError("busy")]), FakeChat([REJECTED])]
    assert isinstance(ask(ring(*models))[1], ModelBusyError)


def test_other_failures_are_not_the_keys_fault() -> None:
    models = [FakeChat([ModelUnavailableError("down")]), FakeChat()]
    assert isinstance(ask(ring(*models))[1], ModelUnavailableError)
    assert asked(models) == [1, 0]


@pytest.mark.parametrize("kind", [ModelAuthError, ModelBusyError, ModelStreamError])
def test_after_the_first_word_the_error_is_raised(kind: type[Exception]) -> None:
    models = [FakeChat(["fi", kind("no")]), FakeChat()]
    events, error = ask(ring(*models))
    assert texts(events) == ["fi"]
    assert type(error) is kind
    assert asked(models) == [1, 0]


def test_a_single_key_behaves_as_the_model_does_and_its_rejection_is_told_once() -> None:
    model, told = FakeChat([REJECTED], [REJECTED], ["fine"]), list[Record]()
    keys = ring(model, told=told)
    assert ask(keys) == ([], REJECTED)
    assert ask(keys) == ([], REJECTED)
    assert texts(ask(keys)[0]) == ["fine"]
    assert told == [KeyRejected(model="fake", key="key 1 of 1 in SOME_KEY")]


def test_calls_at_once_tell_a_rejection_once() -> None:
    told = list[Record]()
    keys = ring(FakeChat([REJECTED]), FakeChat(["fine"]), told=told)

    async def one() -> None:
        async for _ in keys.chat(ASK):
            await asyncio.sleep(0)

    async def run() -> None:
        await asyncio.gather(*(one() for _ in range(6)))

    asyncio.run(run())
    assert len(told) == 1


def test_all_are_closed() -> None:
    models = [FakeChat(), FakeChat()]
    asyncio.run(ring(*models).aclose())
    assert [m.closed for m in models] == [1, 1]
