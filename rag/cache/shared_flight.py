"""Single flight over all processes with the same Redis.

Who gets the lease of a question asks it, and writes the events into a stream; the others read
that. In Redis, under the prefix and the events' shape:

    flight:KEY   the lease: the flight's id; expires unless its leader renews it
    stream:ID    the flight's events, numbered 1-0, 2-0, ..., then one entry that ends it
    watched:ID   how many followers in other processes there are
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from rag.cache.coding import decoded, encoded, shape
from rag.cache.flight import Ask, Flight, LocalFlights, broken_off
from rag.errors import ModelStreamError, RagError, StoreError
from rag.redis_link import RedisLink
from rag.types import AnswerEvent, Failed, Token

if TYPE_CHECKING:
    from redis.asyncio import Redis

_EVENT, _END = b"event", b"end"
_LANDED, _GONE = b"landed", b"gone"
_LINGER = 60_000  # milliseconds a stream outlives its last sign of life, for who still reads it

_RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
"""
_GIVE_BACK = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""


class RedisFlights:
    """`lease` is how many seconds after its last sign of life a leader counts as dead.

    Its followers that have given out no Token then take over; the answers of the others end with
    Failed. While Redis cannot be reached, each process flies alone. A follower asks every `wait`
    seconds of silence whether the leader lives; that has to be less than the link's timeout.
    """

    def __init__(
        self,
        link: RedisLink,
        prefix: str = "rag",
        *,
        lease: float = 10.0,
        wait: float = 0.5,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._link = link
        self._prefix = prefix
        self._lease = lease
        self._wait = wait
        self._sleep = sleep
        self._local = LocalFlights()
        self._publishers: set[asyncio.Task[None]] = set()  # a task that nobody holds may vanish

    def follow(self, key: str, ask: Ask) -> AsyncGenerator[AnswerEvent]:
        """One of this process goes to Redis, for all who ask the same here."""
        return self._local.follow(key, lambda: self._across(key, ask))

    async def _across(self, key: str, ask: Ask) -> AsyncGenerator[AnswerEvent]:
        mine, leads, spoken = uuid.uuid4().hex, False, False
        with contextlib.suppress(StoreError):  # the link has logged it
            while not leads and not spoken:
                flight = await self._take(key, mine)
                if flight == mine:
                    leads = True
                    continue
                with contextlib.suppress(ModelStreamError):  # its leader is gone
                    async with aclosing(self._behind(key, flight)) as events:
                        async for event in events:
                            spoken = spoken or isinstance(event, Token)
                            yield event
                    return
        if spoken:
            yield broken_off("The server process that was answering is gone.")
            return
        async with aclosing(self._lead(key, mine, ask) if leads else ask()) as events:
            async for event in events:
                yield event

    async def _take(self, key: str, mine: str) -> str:
        """The id of the flight that now has the lease: `mine` if it was free."""

        async def taken(redis: Redis) -> str:
            while True:
                if await redis.set(self._flight(key), mine, nx=True, px=self._lease_ms):
                    return mine
                holder: Any = await redis.get(self._flight(key))
                if holder is not None:
                    return str(holder, errors="replace")

        try:
            return await self._link.run(taken)
        except asyncio.CancelledError:  # it may be ours already, and nobody would lead
            with contextlib.suppress(StoreError):
                await self._link.run(lambda r: r.eval(_GIVE_BACK, 1, self._flight(key), mine))
            raise

    # --- as a follower ------------------------------------------------------------------------

    async def _behind(self, key: str, flight: str) -> AsyncGenerator[AnswerEvent]:
        """Raises ModelStreamError when the leader is gone, StoreError when Redis is."""
        await self._watch(flight, 1)
        try:
            number = 0
            while True:
                for name, fields in await self._entries(key, flight, number):
                    if fields.get(_END) == _GONE:
                        raise ModelStreamError("The leader has given up.")
                    number += 1
                    if name != _number(number):
                        raise StoreError("Events of an answer are missing in Redis.")
                    if _END in fields:
                        return
                    yield _event(fields)
        finally:
            with contextlib.suppress(StoreError):  # the count expires
                await self._watch(flight, -1)

    async def _entries(self, key: str, flight: str, after: int) -> list[tuple[bytes, Any]]:
        """The next entries, waited for. Raises ModelStreamError if none will come."""
        while True:
            entries = await self._read(flight, after, max(1, int(self._wait * 1000)))
            if entries:
                return entries
            holder = await self._link.run(lambda redis: redis.get(self._flight(key)))
            if holder != flight.encode():
                entries = await self._read(flight, after, None)  # it may have landed meanwhile
                if not entries:
                    raise ModelStreamError("The leader is gone.")
                return entries

    async def _read(self, flight: str, after: int, block: int | None) -> list[tuple[bytes, Any]]:
        streams: dict[Any, Any] = {self._stream(flight): _number(after)}
        found: Any = await self._link.run(
            lambda redis: redis.xread(streams, block=block), waits=block is not None
        )
        return list(found[0][1]) if found else []

    async def _watch(self, flight: str, change: int) -> None:
        async def counted(redis: Redis) -> None:
            async with redis.pipeline() as pipe:
                pipe.incrby(self._watched(flight), change)
                pipe.pexpire(self._watched(flight), 10 * _LINGER)
                await pipe.execute()

        await self._link.run(counted)

    # --- as the leader ------------------------------------------------------------------------

    async def _lead(self, key: str, mine: str, ask: Ask) -> AsyncGenerator[AnswerEvent]:
        flight = Flight(ask)
        flight.hold()  # for the publisher: others may watch when everybody here is gone
        publisher = asyncio.create_task(self._publish(key, mine, flight))
        publisher.add_done_callback(lambda _: flight.release())
        self._publishers.add(publisher)
        publisher.add_done_callback(self._publishers.discard)
        try:
            async with aclosing(flight.followed()) as events:
                async for event in events:
                    yield event
        finally:
            if flight.landed:
                await asyncio.wait([publisher])
            elif not await self._is_watched(mine):
                publisher.cancel()
                await asyncio.wait([publisher])
                await flight.closed()

    async def _publish(self, key: str, mine: str, flight: Flight) -> None:
        """Writes the events as they come, never holding them up."""
        renewing = asyncio.create_task(self._renew(key, mine))
        number = 0
        end = _GONE
        try:
            async for batch in flight.batches():
                await self._write(mine, number, batch)
                number += len(batch)
            if flight.error is not None:
                await self._write(mine, number, [_failed(flight.error)])
                number += 1
            end = _LANDED
        except (StoreError, ValueError):
            pass  # the link has logged it, or a text is not UTF-8: the followers find it gone
        finally:
            renewing.cancel()
            with contextlib.suppress(StoreError):  # the lease expires
                await self._end(key, mine, number + 1, end)

    async def _write(self, mine: str, number: int, events: Sequence[AnswerEvent]) -> None:
        lines = [encoded(event) for event in events]

        async def written(redis: Redis) -> None:
            async with redis.pipeline() as pipe:
                for place, line in enumerate(lines, number + 1):
                    pipe.xadd(self._stream(mine), {_EVENT: line}, id=_number(place))
                pipe.pexpire(self._stream(mine), _LINGER)
                await pipe.execute()

        await self._link.run(written)

    async def _end(self, key: str, mine: str, number: int, end: bytes) -> None:
        async def ended(redis: Redis) -> None:
            async with redis.pipeline() as pipe:
                # A write that was cancelled may have been carried out: "*" is behind it anyway.
                name = _number(number) if end == _LANDED else "*"
                pipe.xadd(self._stream(mine), {_END: end}, id=name)
                pipe.pexpire(self._stream(mine), _LINGER)
                pipe.eval(_GIVE_BACK, 1, self._flight(key), mine)
                await pipe.execute()

        await self._link.run(ended)

    async def _renew(self, key: str, mine: str) -> None:
        arguments = (self._flight(key), self._stream(mine), mine, self._lease_ms, _LINGER)
        while True:
            await self._sleep(self._lease / 3)
            with contextlib.suppress(StoreError):  # next time, if the lease lives until then
                await self._link.run(lambda redis: redis.eval(_RENEW, 2, *arguments))

    async def _is_watched(self, mine: str) -> bool:
        try:
            count = await self._link.run(lambda redis: redis.get(self._watched(mine)))
        except StoreError:
            return False
        return int(count or 0) > 0

    # --- names --------------------------------------------------------------------------------

    @property
    def _lease_ms(self) -> int:
        return max(1, int(self._lease * 1000))

    def _flight(self, key: str) -> str:
        return f"{self._prefix}:flight:{shape()}:{key}"

    def _stream(self, flight: str) -> str:
        return f"{self._prefix}:stream:{shape()}:{flight}"

    def _watched(self, flight: str) -> str:
        return f"{self._prefix}:watched:{shape()}:{flight}"


def _number(place: int) -> bytes:
    return b"%d-0" % place


def _event(fields: dict[bytes, bytes]) -> AnswerEvent:
    try:
        return decoded(fields[_EVENT])
    except (KeyError, ValueError):
        raise StoreError("An event of an answer in Redis cannot be read.") from None


def _failed(error: Exception) -> Failed:
    if isinstance(error, RagError):
        return Failed(error.code, error.message, error.hint, error.retryable)
    return broken_off()
