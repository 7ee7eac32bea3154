"""A model server in OpenAI's format that answers at once: `python -m benchmarks.scripted`.

Prints its port, then serves until it is ended.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

WORDS = ("The passages ", "tell ", "it ", "plainly ", "[1]", ", ", "and ", "nothing ", "else", ".")
_USAGE = {"prompt_tokens": 100, "completion_tokens": len(WORDS), "total_tokens": 100 + len(WORDS)}
_NAMES = {"id": "chatcmpl-1", "created": 0, "model": "scripted"}


async def main() -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = int(head.partition("content-length:")[2].split("\r\n")[0] or 0)
            request: dict[str, Any] = json.loads(await reader.readexactly(length))
            if request.get("stream"):
                _streamed(writer)
            else:
                _whole(writer)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def _whole(writer: asyncio.StreamWriter) -> None:
    message = {"role": "assistant", "content": "".join(WORDS)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = json.dumps(
        _NAMES | {"object": "chat.completion", "choices": [choice], "usage": _USAGE}
    ).encode()
    writer.write(_head("application/json", f"Content-Length: {len(body)}") + body)


def _streamed(writer: asyncio.StreamWriter) -> None:
    writer.write(_head("text/event-stream", "Transfer-Encoding: chunked"))
    for word in WORDS:
        _piece(writer, [{"index": 0, "delta": {"content": word}, "finish_reason": None}], None)
    _piece(writer, [{"index": 0, "delta": {}, "finish_reason": "stop"}], None)
    _piece(writer, [], _USAGE)
    _chunk(writer, b"data: [DONE]\n\n")
    writer.write(b"0\r\n\r\n")


def _piece(writer: asyncio.StreamWriter, choices: list[Any], usage: Any) -> None:
    data = _NAMES | {"object": "chat.completion.chunk", "choices": choices, "usage": usage}
    _chunk(writer, f"data: {json.dumps(data)}\n\n".encode())


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def _head(kind: str, length: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{length}\r\n\r\n".encode()


if __name__ == "__main__":
    asyncio.run(main())
