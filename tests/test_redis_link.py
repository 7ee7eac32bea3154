"""The one way to Redis: its clients, and what happens when Redis is down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import pytest

from rag.errors import ConfigError, StoreError
from rag.redis_link import RedisLink
from tests.chat_fakes import FakeClock

URL = "redis://user:hunter2@nowhere.invalid:7000/0?db=1"  # only made-up commands are run on it


async def gone(_: object) -> str:
    raise ConnectionResetError("gone")


async def there(_: object) -> str:
    return "there"


@pytest.mark.parametrize(
    "url",
    ["localhost", "http://user:hunter2@localhost", "redis://user:hunter2@localhost:port"],
)
def test_a_url_that_is_none_is_a_wrong_setting_that_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="URL of Redis") as caught:
        RedisLink(url)
    assert "hunter2" not in str(caught.value)


def test_redis_is_left_alone_for_a_while_and_then_asked_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()
    link = RedisLink(URL, pause=5.0, clock=clock)
    calls = 0

    async def command(_: object) -> str:
        nonlocal calls
        calls += 1
        return await gone(_)

    async def scene() -> None:
        for seconds in (0.0, 1.0, 3.9, 0.1, 1.0):
            clock.advance(seconds)
            with pytest.raises(StoreError, match="cannot be reached"):
                await link.run(command)
        assert calls == 2
        clock.advance(4.0)
        assert [await link.run(there), await link.run(there)] == ["there", "there"]

    with caplog.at_level(logging.INFO, "rag"):
        asyncio.run(scene())
    assert caplog.messages == [
        "Redis at nowhere.invalid:7000 cannot be reached; going on without: gone",
        "Redis at nowhere.invalid:7000 is back.",
    ]


def test_what_was_asked_before_a_failure_does_not_tell_that_redis_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        clock = FakeClock()
        link = RedisLink(URL, pause=5.0, clock=clock)
        late = asyncio.Event()

        async def later(_: object) -> bool:
            return await late.wait()

        for _ in range(2):  # before the first failure, and after its pause
            late.clear()
            asked = asyncio.create_task(link.run(later))
            await asyncio.sleep(0)
            with pytest.raises(StoreError):
                await link.run(gone)
            late.set()
            assert await asked
            with pytest.raises(StoreError):
                await link.run(there)
            clock.advance(5.0)

    asyncio.run(scene())
    assert len(caplog.messages) == 1


def test_a_command_that_redis_refuses_is_told_once_and_keeps_no_other_one_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def refused(_: object) -> None:
        from redis.exceptions import ResponseError

        raise ResponseError("unknown command 'AUTH', with args beginning with: 'hunter2'")

    async def scene() -> None:
        link = RedisLink(URL)
        for _ in range(2):
            with pytest.raises(StoreError, match="does not do what it is asked"):
                await link.run(refused)
            assert await link.run(there) == "there"

    asyncio.run(scene())
    (message,) = caplog.messages
    assert "unknown command 'AUTH'" in message
    assert "hunter2" not in message


@pytest.mark.parametrize("ending", [there, gone])
def test_a_cancellation_that_a_command_swallows_still_counts(ending: Any) -> None:
    async def scene() -> None:
        begun = asyncio.Event()

        async def command(_: object) -> str:
            begun.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            return str(await ending(_))

        link = RedisLink(URL)
        task = asyncio.create_task(link.run(command))
        await begun.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert await link.run(there) == "there"

    asyncio.run(scene())


def test_many_commands_wait_for_their_turn_but_not_those_that_wait_in_redis() -> None:
    async def scene() -> None:
        link, reply = RedisLink(URL), asyncio.Event()
        begun = 0

        async def command(_: object) -> None:
            nonlocal begun
            begun += 1
            await reply.wait()
            raise ConnectionResetError

        tasks = [asyncio.create_task(link.run(command)) for _ in range(100)]
        assert await link.run(there, waits=True) == "there"
        await asyncio.sleep(0)
        assert begun == 32
        reply.set()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(end) for end in ends} == {StoreError}
        assert begun == 32  # the others did not try in vain

    asyncio.run(scene())


async def incremented(replies: list[bytes | None]) -> tuple[object, list[bytes | None]]:
    """What INCR gives when each try of it gets the next reply (None: hangs up), and the rest."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            reply = replies.pop(0) if b"INCR" in data else b"+OK\r\n" * data.count(b"CLIENT")
            if reply is None:
                break
            writer.write(reply)
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    link = RedisLink(f"redis://{host}:{port}", timeout=0.2)
    async with server, contextlib.aclosing(link):
        result: object = None
        with contextlib.suppress(StoreError):
            result = await link.run(lambda redis: redis.incr("k"))
    return result, replies


def test_a_broken_connection_is_made_again_at_once() -> None:
    assert asyncio.run(incremented([None, b":7\r\n"])) == (7, [])


def test_a_redis_that_says_nothing_is_not_asked_twice() -> None:
    assert asyncio.run(incremented([b"", b":7\r\n"])) == (None, [b":7\r\n"])


# --- a real Redis -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.redis
def test_a_client_is_closed_with_its_event_loop(redis_url: str) -> None:
    link = RedisLink(redis_url)

    async def ask() -> bool:
        return bool(await link.run(lambda redis: redis.ping()))

    async def scene() -> None:
        for _ in range(2):
            assert await ask()
            await link.aclose()
        await link.aclose()

    for _ in range(3):  # what stayed open would be a ResourceWarning, and that an error
        assert asyncio.run(ask())
    with asyncio.Runner() as one, asyncio.Runner() as two:
        assert all([one.run(ask()), two.run(ask()), one.run(ask()), two.run(ask())])
    asyncio.run(scene())
    assert not link._clients


@pytest.mark.slow
@pytest.mark.redis
def test_a_connection_that_the_server_closed_is_made_again(redis_url: str) -> None:
    async def scene() -> None:
        link, other = RedisLink(redis_url), RedisLink(redis_url)
        mine = await link.run(lambda redis: redis.client_id())
        await other.run(lambda redis: redis.client_kill_filter(_id=str(mine)))
        assert await link.run(lambda redis: redis.client_id()) != mine

    asyncio.run(scene())
