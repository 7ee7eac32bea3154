"""Small values that several processes, or the parts of one, change one after the other."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from rag.errors import StoreError
from rag.redis_link import RedisLink

T = TypeVar("T")
Step = Callable[[bytes | None], tuple[bytes | None, T]]

_FIRST_SWEEP = 256  # values


class LocalState:
    """A `SharedState` of this process alone; safe to use from several threads and event loops.

    `clock` counts seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._values: dict[str, tuple[bytes, float]] = {}  # with the time to forget it
        self._sweep_at = _FIRST_SWEEP

    async def change(self, key: str, step: Step[T], *, keep: float) -> T:
        with self._lock:
            now = self._clock()
            held, until = self._values.get(key, (b"", -math.inf))
            old = held if now < until else None
            new, result = step(old)
            if new is None:
                self._values.pop(key, None)
            elif new != old:
                self._values[key] = (new, now + keep)
                self._sweep(now)
            return result

    async def aclose(self) -> None:
        """Nothing is held that would have to be closed."""

    def _sweep(self, now: float) -> None:
        """Now and then, so that forgotten values leave the memory too."""
        if len(self._values) >= self._sweep_at:
            self._values = {k: v for k, v in self._values.items() if now < v[1]}
            self._sweep_at = max(_FIRST_SWEEP, 2 * len(self._values))


class RedisState:
    """A `SharedState` of all processes that have the same Redis and `prefix`.

    When Redis fails this process goes on alone for `rest` seconds, with values of its own.
    """

    def __init__(
        self,
        link: RedisLink,
        prefix: str = "rag:",
        *,
        rest: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = link
        self._prefix = prefix
        self._rest = rest
        self._clock = clock
        self._alone = LocalState(clock)
        self._alone_until = -math.inf
        # Who changes a value here waits in line, for only one of them could succeed.
        self._lines = WeakValueDictionary[tuple[asyncio.AbstractEventLoop, str], asyncio.Lock]()

    async def change(self, key: str, step: Step[T], *, keep: float) -> T:
        if self._clock() >= self._alone_until:
            try:
                return await self._changed(key, step, keep)
            except StoreError:  # the link has logged it
                # A Redis that can only be read would give values that nobody changes any more.
                self._alone_until = self._clock() + self._rest
        return await self._alone.change(key, step, keep=keep)

    async def aclose(self) -> None:
        """Closes what the link has open in this event loop."""
        await self._link.aclose()

    async def _changed(self, key: str, step: Step[T], keep: float) -> T:
        name = self._prefix + key

        async def stepped(pipe: Any) -> T:
            """Called again after a change of another process."""
            old = await pipe.get(name)
            new, result = step(old)
            pipe.multi()
            if new is None:
                pipe.delete(name)
            elif new != old:
                pipe.set(name, new, px=max(1, round(keep * 1000)))
            return result

        old: Any = await self._link.run(lambda redis: redis.get(name))
        new, result = step(old)
        if new == old:  # the common case costs one round trip
            return result
        line = self._lines.setdefault((asyncio.get_running_loop(), key), asyncio.Lock())
        async with line:
            return await self._link.run(
                lambda redis: redis.transaction(stepped, name, value_from_callable=True)
            )
