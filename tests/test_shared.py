"""What several processes change one after the other, and what happens when Redis is gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from rag.redis_link import RedisLink
from rag.shared import LocalState, RedisState
from rag.types import SharedState
from tests.chat_fakes import FakeClock
from tests.services import free_port, redis_server

KEEP = 60.0
Make = Callable[[], SharedState]


@pytest.fixture(
    params=[
        "local",
        pytest.param("redis", marks=[pytest.mark.redis, pytest.mark.slow]),
    ]
)
def make(request: pytest.FixtureRequest) -> Make:
    """Gives the state as another process would see it, with keys of this test's own."""
    if request.param == "local":
        state = LocalState()
        return lambda: state
    url, prefix = request.getfixturevalue("redis_url"), f"{uuid4()}:"
    return lambda: RedisState(RedisLink(url), prefix)


def counted(value: bytes | None) -> tuple[bytes, int]:
    number = int(value or b"0")
    return b"%d" % (number + 1), number


def seen(value: bytes | None) -> tuple[bytes | None, bytes | None]:
    return value, value


# --- every state --------------------------------------------------------------------------------


def test_a_step_gets_the_value_and_leaves_the_next(make: Make) -> None:
    async def run() -> None:
        async with aclosing(make()) as state:
            assert [await state.change("k", counted, keep=KEEP) for _ in range(3)] == [0, 1, 2]
            assert await state.change("k", seen, keep=KEEP) == b"3"

    asyncio.run(run())


def test_keys_are_apart_and_values_are_any_bytes(make: Make) -> None:
    async def run() -> None:
        async with aclosing(make()) as state:
            await state.change("a", lambda _: (b"\x00\xff\r\n", None), keep=KEEP)
            await state.change("b", lambda _: (b"", None), keep=KEEP)
            assert await state.change("a", seen, keep=KEEP) == b"\x00\xff\r\n"
            assert await state.change("b", seen, keep=KEEP) == b""
            assert await state.change("c", seen, keep=KEEP) is None

    asyncio.run(run())


def test_none_removes_the_value(make: Make) -> None:
    async def run() -> None:
        async with aclosing(make()) as state:
            await state.change("k", counted, keep=KEEP)
            assert await state.change("k", lambda old: (None, old), keep=KEEP) == b"1"
            assert await state.change("k", seen, keep=KEEP) is None

    asyncio.run(run())


def test_a_step_that_raises_changes_nothing(make: Make) -> None:
    def fail(_old: bytes | None) -> tuple[bytes, None]:
        raise ZeroDivisionError

    async def run() -> None:
        async with aclosing(make()) as state:
            await state.change("k", counted, keep=KEEP)
            with pytest.raises(ZeroDivisionError):
                await state.change("k", fail, keep=KEEP)
            assert await state.change("k", seen, keep=KEEP) == b"1"

    asyncio.run(run())


def test_a_hundred_changers_at_once_all_succeed(make: Make) -> None:
    async def run() -> None:
        async with aclosing(make()) as one, aclosing(make()) as two:
            changes = (state.change("k", counted, keep=KEEP) for state in (one, two) * 50)
            assert sorted(await asyncio.gather(*changes)) == list(range(100))

    asyncio.run(run())


def test_several_event_loops_use_it_one_after_the_other(make: Make) -> None:
    state = make()

    async def run() -> int:
        return await state.change("k", counted, keep=KEEP)

    assert [asyncio.run(run()) for _ in range(3)] == [0, 1, 2]


def test_several_event_loops_use_it_at_once(make: Make) -> None:
    state = make()

    async def run() -> int:
        return await state.change("k", counted, keep=KEEP)

    with asyncio.Runner() as one, asyncio.Runner() as two:
        assert [one.run(run()), two.run(run()), one.run(run()), two.run(run())] == [0, 1, 2, 3]


# --- in this process ----------------------------------------------------------------------------


def test_a_value_that_is_not_changed_is_forgotten() -> None:
    clock = FakeClock()
    state = LocalState(clock)

    async def run() -> None:
        await state.change("k", counted, keep=KEEP)
        clock.advance(KEEP - 1)
        assert await state.change("k", seen, keep=KEEP) == b"1"
        clock.advance(1)
        assert await state.change("k", seen, keep=KEEP) is None

    asyncio.run(run())


def test_a_change_begins_the_time_anew() -> None:
    clock = FakeClock()
    state = LocalState(clock)

    async def run() -> None:
        for _ in range(3):
            await state.change("k", counted, keep=KEEP)
            clock.advance(KEEP - 1)
        assert await state.change("k", seen, keep=KEEP) == b"3"

    asyncio.run(run())


def test_forgotten_values_leave_the_memory() -> None:
    clock = FakeClock()
    state = LocalState(clock)

    async def run() -> None:
        for n in range(10_000):
            await state.change(f"k{n}", counted, keep=KEEP)
            clock.advance(1.0)

    asyncio.run(run())
    assert len(state._values) <= 512


# --- Redis --------------------------------------------------------------------------------------


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[object]:
    import redis.asyncio

    async with redis.asyncio.Redis.from_url(url) as client:
        yield client


def at(url: str, clock: FakeClock) -> RedisState:
    return RedisState(RedisLink(url, clock=clock), clock=clock)


@pytest.mark.slow
@pytest.mark.redis
def test_redis_forgets_by_itself_and_the_keys_have_the_prefix(redis_url: str) -> None:
    async def run() -> None:
        prefix = f"{uuid4()}:"
        async with (
            aclosing(RedisState(RedisLink(redis_url), prefix)) as state,
            client_of(redis_url) as client,
        ):
            await state.change("k", counted, keep=12.5)
            left = await client.pttl(f"{prefix}k")  # type: ignore[attr-defined]
            assert 0 < left <= 12_500
            await state.change("k", lambda _: (None, None), keep=12.5)
            assert not await client.exists(f"{prefix}k")  # type: ignore[attr-defined]

    asyncio.run(run())


def test_without_redis_the_process_goes_on_alone_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = free_port()
    state = at(f"redis://user:hunter2@127.0.0.1:{port}/0", FakeClock())

    async def run() -> None:
        async with aclosing(state):
            changes = [await state.change("k", counted, keep=KEEP) for _ in range(3)]
            assert changes == [0, 1, 2]

    with caplog.at_level(logging.WARNING, logger="rag"):
        asyncio.run(run())
    (message,) = caplog.messages
    assert f"127.0.0.1:{port}" in message
    assert "hunter2" not in caplog.text


def test_redis_is_asked_again_only_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    connections: list[int] = []

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        async with server, aclosing(at(f"redis://{host}:{port}", clock)) as state:
            await state.change("k", counted, keep=KEEP)
            tried = len(connections)
            assert tried > 0
            clock.advance(4.9)
            await state.change("k", counted, keep=KEEP)
            assert len(connections) == tried
            clock.advance(0.1)
            assert await state.change("k", counted, keep=KEEP) == 2
            assert len(connections) > tried

    with caplog.at_level(logging.WARNING, logger="rag"):
        asyncio.run(run())
    assert len(caplog.messages) == 1


@pytest.mark.slow
@pytest.mark.redis
def test_when_redis_comes_back_it_is_shared_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, port = FakeClock(), free_port()
    monkeypatch.setattr("tests.services.free_port", lambda: port)
    state = at(f"redis://127.0.0.1:{port}/0", clock)

    async def run() -> None:
        async with aclosing(state):
            with redis_server(tmp_path):
                assert await state.change("k", counted, keep=KEEP) == 0
                assert await state.change("k", counted, keep=KEEP) == 1
            assert await state.change("k", counted, keep=KEEP) == 0  # alone
            with redis_server(tmp_path):
                clock.advance(5.0)
                assert await state.change("k", seen, keep=KEEP) is None

    with caplog.at_level(logging.WARNING, logger="rag"):
        asyncio.run(run())
    assert [m.partition(";")[0] for m in caplog.messages] == [
        f"Redis at 127.0.0.1:{port} cannot be reached",
        f"Redis at 127.0.0.1:{port} is back.",
    ]


@pytest.mark.slow
@pytest.mark.redis
def test_changers_of_one_process_do_not_get_in_each_others_way(redis_url: str) -> None:
    async def run() -> None:
        async with (
            aclosing(RedisState(RedisLink(redis_url), f"{uuid4()}:")) as state,
            client_of(redis_url) as client,
        ):
            await client.config_resetstat()  # type: ignore[attr-defined]
            await asyncio.gather(*(state.change("k", counted, keep=KEEP) for _ in range(50)))
            tries = await client.info("commandstats")  # type: ignore[attr-defined]
            assert tries["cmdstat_watch"]["calls"] == 50

    asyncio.run(run())


@pytest.mark.slow
@pytest.mark.redis
def test_with_a_redis_that_takes_no_values_the_process_goes_on_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run(url: str) -> None:
        clock = FakeClock()
        async with aclosing(at(url, clock)) as state, client_of(url) as client:
            await client.config_set("min-replicas-to-write", 1)  # type: ignore[attr-defined]
            assert [await state.change("k", counted, keep=KEEP) for _ in range(3)] == [0, 1, 2]
            assert await state.change("k", seen, keep=KEEP) == b"3"
            await client.config_set("min-replicas-to-write", 0)  # type: ignore[attr-defined]
            clock.advance(5.0)
            assert await state.change("k", counted, keep=KEEP) == 0

    with redis_server(tmp_path) as url:
        asyncio.run(run(url))
    assert len(caplog.messages) == 1
