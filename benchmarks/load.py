"""Many questions at once over kept connections, at little cost: the server has the same cores."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_END_OF_HEAD = b"\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"


@dataclass(slots=True)
class Load:
    """What came back, heads included, and how long it took."""

    seconds: float = 0.0
    replies: list[bytes] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return len(self.replies) / self.seconds

    def count(self, text: bytes) -> int:
        return sum(reply.count(text) for reply in self.replies)


def loaded(url: str, bodies: Sequence[dict[str, Any]], connections: int) -> Load:
    """All of `bodies` posted to `url`, `connections` at once. Only a 200 is a reply."""
    return asyncio.run(_loaded(url, bodies, connections))


async def _loaded(url: str, bodies: Sequence[dict[str, Any]], connections: int) -> Load:
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    requests = iter([_request(address.netloc, address.path, body) for body in bodies])
    load, loop = Load(), asyncio.get_running_loop()
    started = time.perf_counter()
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(
            lambda: _Client(requests, load), address.hostname, address.port
        )
        clients.append(client)
    await asyncio.gather(*(client.done for client in clients))
    load.seconds = time.perf_counter() - started
    return load


def _request(host: str, path: str, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


class _Client(asyncio.Protocol):
    """One connection, which asks the next question when it has the whole answer."""

    def __init__(self, requests: Iterator[bytes], load: Load) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests = requests
        self._load = load
        self._reply = bytearray()
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        self._reply += data
        if not self._whole():
            return
        reply = bytes(self._reply)
        self._reply.clear()
        if not reply.startswith(b"HTTP/1.1 200 "):
            self._fail(f"The server refused: {reply[:2000].decode(errors='replace')}")
            return
        self._load.replies.append(reply)
        self._next()

    def connection_lost(self, _error: Exception | None) -> None:
        self._fail("The server hung up.")

    def _next(self) -> None:
        request = next(self._requests, None)
        if request is not None:
            self._transport.write(request)
        elif not self.done.done():
            self.done.set_result(None)
            self._transport.close()

    def _whole(self) -> bool:
        if self._reply.endswith(_LAST_CHUNK):
            return True
        end = self._reply.find(_END_OF_HEAD)
        head = self._reply[: max(end, 0)].lower()
        _, announced, rest = head.partition(b"content-length:")
        if not announced:
            return False
        return len(self._reply) >= end + len(_END_OF_HEAD) + int(rest.split(b"\r\n")[0])

    def _fail(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(SystemExit(reason))
            self._transport.close()
