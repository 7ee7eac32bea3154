"""A model server in OpenAI's format: `python -m benchmarks.scripted [--seconds S] [--words N]`.

It answers after S seconds, at once if left out, with N words, some of them marks of a passage.
Prints its port, then serves until it is ended.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from itertools import cycle, islice
from typing import Any

_WORDS = ("They ", "tell ", "it ", "plainly ", "[1]", ", ", "and ", "nothing ", "else", ". ")
_MORE = ("More ", "of ", "this ", "kind ", "follows ", "here ", "and ", "there", ", ", "on ")
_NAMES = {"id": "chatcmpl-1", "created": 0, "model": "scripted"}


class Script:
    """The replies, as bytes: the same to everybody."""

    def __init__(self, seconds: float, count: int) -> None:
        words = list(islice(cycle(_WORDS + 4 * _MORE), count))
        usage = {
            "prompt_tokens": 100,
            "completion_tokens": count,
            "total_tokens": 100 + count,
        }
        self._seconds = seconds
        self._whole = _whole("".join(words), usage)
        self._pieces = [
            _piece([{"index": 0, "delta": {"content": word}, "finish_reason": None}], None)
            for word in words
        ]
        self._pieces.append(_piece([{"index": 0, "delta": {}, "finish_reason": "stop"}], None))
        self._pieces.append(_piece([], usage))
        self._pieces.append(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = int(head.partition("content-length:")[2].split("\r\n")[0] or 0)
                request: dict[str, Any] = json.loads(await reader.readexactly(length))
                await asyncio.sleep(self._seconds)
                if request.get("stream"):
                    await self._stream(writer)
                else:
                    writer.write(self._whole)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        """Streams take turns, chunk by chunk."""
        writer.write(_head("text/event-stream", "Transfer-Encoding: chunked"))
        for piece in self._pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)


def _whole(text: str, usage: dict[str, int]) -> bytes:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = json.dumps(
        _NAMES | {"object": "chat.completion", "choices": [choice], "usage": usage}
    ).encode()
    return _head("application/json", f"Content-Length: {len(body)}") + body


def _piece(choices: list[Any], usage: Any) -> bytes:
    data = _NAMES | {"object": "chat.completion.chunk", "choices": choices, "usage": usage}
    return _chunk(f"data: {json.dumps(data)}\n\n".encode())


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _head(kind: str, length: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{length}\r\n\r\n".encode()


async def _serve(script: Script) -> None:
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--words", type=int, default=len(_WORDS))
    given = parser.parse_args()
    asyncio.run(_serve(Script(given.seconds, given.words)))
