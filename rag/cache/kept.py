"""Where answers are kept: in this process, or in Redis for all of them."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from rag.cache.coding import decoded_all, encoded_all, shape
from rag.errors import StoreError
from rag.redis_link import RedisLink
from rag.types import AnswerEvent, Finished

Events = tuple[AnswerEvent, ...]
_SWEEP = 500  # keys deleted at a time

_log = logging.getLogger("rag")


class KeptAnswers(Protocol):
    """The events of answers, by key, each for some time. Never fails: what cannot be had is None,
    and what cannot be put is not kept."""

    async def get(self, key: str) -> Events | None: ...

    async def put(self, key: str, events: Events, seconds: float) -> None: ...

    async def clear(self) -> None: ...


class InMemory:
    """The `entries` answers that were used last, as the objects they are. Safe between threads."""

    def __init__(self, entries: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries = entries
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[float, Events]] = OrderedDict()

    async def get(self, key: str) -> Events | None:
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            until, events = found
            if self._clock() >= until:
                del self._kept[key]
                return None
            self._kept.move_to_end(key)
            return events

    async def put(self, key: str, events: Events, seconds: float) -> None:
        with self._lock:
            self._kept[key] = self._clock() + seconds, events
            self._kept.move_to_end(key)
            while len(self._kept) > self._entries:
                self._kept.popitem(last=False)

    async def clear(self) -> None:
        with self._lock:
            self._kept.clear()


class InRedis:
    """Answers that all processes with the same Redis and `prefix` share.

    Redis removes them when their time is over. A program whose events have another shape does not
    see them; what cannot be read counts as not there.
    """

    def __init__(self, link: RedisLink, prefix: str = "rag") -> None:
        self._link = link
        self._prefix = f"{prefix}:answer:"

    async def get(self, key: str) -> Events | None:
        try:
            value: Any = await self._link.run(lambda redis: redis.get(self._key(key)))
        except StoreError:  # the link has logged it
            return None
        if value is None:
            return None
        try:
            events = decoded_all(value)
        except ValueError:
            events = ()
        if not events or not isinstance(events[-1], Finished):
            _log.warning("A kept answer in Redis cannot be read: %s", self._key(key))
            return None
        return events

    async def put(self, key: str, events: Events, seconds: float) -> None:
        try:
            value = encoded_all(events)
        except ValueError:
            _log.warning("An answer is not kept: its text cannot be written as UTF-8.")
            return
        milliseconds = max(1, int(seconds * 1000))
        try:
            await self._link.run(lambda redis: redis.set(self._key(key), value, px=milliseconds))
        except StoreError:  # the link has logged it
            return

    async def clear(self) -> None:
        """Removes the answers of all processes, those of other programs' shapes too."""
        cursor = 0
        while True:
            try:
                cursor = await self._sweep(cursor)
            except StoreError:  # the link has logged it
                return
            if cursor == 0:
                return

    async def _sweep(self, cursor: int) -> int:
        pattern = self._prefix + "*"
        cursor, keys = await self._link.run(
            lambda redis: redis.scan(cursor, match=pattern, count=_SWEEP)
        )
        if keys:
            await self._link.run(lambda redis: redis.unlink(*keys))
        return cursor

    def _key(self, key: str) -> str:
        return f"{self._prefix}{shape()}:{key}"
