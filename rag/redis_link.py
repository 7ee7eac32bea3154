"""The way to Redis, which may be down."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import urlsplit

from rag.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from redis.asyncio import Redis

T = TypeVar("T")
_AT_ONCE = 32  # commands that return at once
_CONNECTIONS = 10_000  # those that wait have one each

_log = logging.getLogger("rag")


class _Client(NamedTuple):
    """What belongs to one event loop: a connection cannot be used in another."""

    redis: Redis
    turns: asyncio.Semaphore
    owner: AsyncGenerator[None]


class RedisLink:
    """Runs commands on Redis, which has `timeout` seconds for each answer.

    A broken connection is made again at once; when Redis cannot be reached it is left alone for
    `pause` seconds, so that nobody waits for it again and again. The log gets one warning, and one
    line when it is back. Several event loops may use it, at once or one after the other; the end
    of `asyncio.run` closes what is open in it. Raises ConfigError for a URL that is none.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 1.0,
        pause: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from redis import exceptions
        from redis.asyncio.connection import parse_url

        try:
            self._password = str(parse_url(url).get("password") or "")
            self._place = _place(url)
        except ValueError:
            raise ConfigError(
                "The URL of Redis is not one.", "Set RAG_REDIS_URL to redis://HOST:6379/0."
            ) from None
        self._url = url
        self._timeout = timeout
        self._pause = pause
        self._clock = clock
        self._errors = (exceptions.RedisError, OSError)
        self._unreachable = (exceptions.ConnectionError, exceptions.TimeoutError, OSError)
        self._clients: dict[asyncio.AbstractEventLoop, _Client] = {}
        self._paused_until: float | None = None
        self._warned: set[str] = set()

    async def run(self, command: Callable[[Redis], Awaitable[T]], *, waits: bool = False) -> T:
        """What `command` returns; `waits` says that it blocks in Redis, for less than `timeout`.

        Raises StoreError.
        """
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop) or await self._opened(loop)
        async with nullcontext() if waits else client.turns:
            paused = self._paused_until
            if paused is not None and self._clock() < paused:
                raise StoreError(f"Redis at {self._place} cannot be reached.")
            before = _cancellations()
            try:
                result = await command(client.redis)
            except self._errors as error:
                _not_cancelled_since(before)
                raise self._failed(error) from None
            _not_cancelled_since(before)
            if paused is not None and paused == self._paused_until:  # nobody has failed since
                self._paused_until = None
                self._warned.clear()
                _log.warning("Redis at %s is back.", self._place)
            return result

    async def aclose(self) -> None:
        """Closes what is open in this event loop; the next command opens it anew."""
        if client := self._clients.get(asyncio.get_running_loop()):
            await client.owner.aclose()

    def _failed(self, error: Exception) -> StoreError:
        what = "does not do what it is asked"
        if isinstance(error, self._unreachable):
            what = "cannot be reached"
            self._paused_until = self._clock() + self._pause
        if what not in self._warned:
            self._warned.add(what)
            why = str(error)
            if self._password:  # Redis repeats the words it does not understand
                why = why.replace(self._password, "***")
            _log.warning("Redis at %s %s; going on without: %s", self._place, what, why)
        return StoreError(f"Redis at {self._place} {what}.", "Check RAG_REDIS_URL.")

    async def _opened(self, loop: asyncio.AbstractEventLoop) -> _Client:
        redis = self._new()
        client = _Client(redis, asyncio.Semaphore(_AT_ONCE), self._owner(loop, redis))
        self._clients[loop] = client
        await anext(client.owner)
        return client

    async def _owner(self, loop: asyncio.AbstractEventLoop, redis: Redis) -> AsyncGenerator[None]:
        """Holds the client open; `asyncio.run` closes generators before it closes the loop."""
        try:
            yield
        finally:
            del self._clients[loop]
            await redis.aclose()

    def _new(self) -> Redis:
        from redis import exceptions
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        return Redis.from_url(
            self._url,
            protocol=2,
            socket_timeout=self._timeout,
            socket_connect_timeout=self._timeout,
            max_connections=_CONNECTIONS,
            # Not after a time-out: the command may have been carried out.
            retry=Retry(NoBackoff(), 1, (exceptions.ConnectionError,)),
        )


def _place(url: str) -> str:
    """The URL without user, password and parameters. Raises ValueError."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 6379}" if parts.hostname else parts.path


def _cancellations() -> int:
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


def _not_cancelled_since(before: int) -> None:
    """Raises what Python 3.11's `wait_for`, in redis, swallows when it comes with a result."""
    if _cancellations() > before:
        raise asyncio.CancelledError
