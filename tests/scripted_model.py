"""A chat server of the OpenAI format on loopback that does, byte for byte, what a test wrote down.

    with ScriptedModel() as model:
        model.next(status(429, {"Retry-After": "7"}))
        ... OpenAIChat(base_url=model.url) ...
        assert model.requests[0].body["model"] == "gpt-test"

Each request takes the next behaviour of the script; with none left it gets the answer `grounded`.
Every connection serves one request and is closed, so that a cut is a cut.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

DEADLINE = 20.0  # of every wait: a hang becomes a failure

_SOURCE = re.compile(r'<source n="(\d+)"[^>]*>\n(.*?)\n</source>', re.DOTALL)
_SENTENCE = re.compile(r"[^。！？\n.!?]{4,}[。！？.!?]?")


@dataclass
class Request:
    """One request, and what became of its connection."""

    path: str
    headers: dict[str, str]  # names in lower case
    body: dict[str, Any]
    gone: threading.Event = field(default_factory=threading.Event)  # the client hung up

    @property
    def question(self) -> str:
        content = self.body["messages"][-1]["content"]
        return content if isinstance(content, str) else content[0]["text"]

    @property
    def sources(self) -> dict[int, str]:
        """The numbered sources of the prompt."""
        return {int(n): text for n, text in _SOURCE.findall(self.body["messages"][0]["content"])}


class Connection:
    """The server's end: raw bytes, or the pieces of a chunked event stream."""

    def __init__(self, client: socket.socket, request: Request) -> None:
        self._client = client
        self.request = request

    def send(self, data: bytes) -> None:
        self._client.sendall(data)

    def head(self, status: int, headers: dict[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} Scripted", *(f"{k}: {v}" for k, v in headers.items())]
        self.send("\r\n".join([*lines, "Connection: close", "", ""]).encode())

    def reply(
        self,
        status: int,
        body: bytes,
        media_type: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> None:
        length = {"Content-Type": media_type, "Content-Length": str(len(body))}
        self.head(status, length | (headers or {}))
        self.send(body)

    def begin(self) -> None:
        self.head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})

    def piece(self, data: bytes) -> None:
        self.send(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def event(self, data: dict[str, Any] | str) -> None:
        text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
        self.piece(f"data: {text}\n\n".encode())

    def end(self) -> None:
        self.event("[DONE]")
        self.send(b"0\r\n\r\n")

    def wait_until_gone(self) -> None:
        """Sends nothing until the client hangs up."""
        self._client.settimeout(DEADLINE)
        try:
            while self._client.recv(1024):
                pass
        except TimeoutError:
            return
        except OSError:
            pass  # a reset is a way of hanging up
        self.request.gone.set()


Behaviour = Callable[[Connection], None]


class ScriptedModel:
    """The server; a context manager. `requests` are those it got, in order."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._script: deque[Behaviour] = deque()
        self._arrived = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._clients: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def next(self, *behaviours: Behaviour) -> None:
        self._script.extend(behaviours)

    def forget(self) -> None:
        """As if it had just been started."""
        with self._arrived:
            self.requests.clear()
            self._script.clear()

    def wait_for(self, number: int) -> Request:
        """The `number`-th request (from 1), as soon as it has come."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.requests) >= number, DEADLINE)
        return self.requests[number - 1]

    def __enter__(self) -> ScriptedModel:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in list(self._clients):
            _hang_up(client)
        for thread in self._threads:
            thread.join(DEADLINE)

    def _start(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._clients.add(client)
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(DEADLINE)
        try:
            request = _read(client)
            with self._arrived:
                self.requests.append(request)
                behaviour = self._script.popleft() if self._script else grounded()
                self._arrived.notify_all()
            behaviour(Connection(client, request))
        except (ConnectionError, EOFError):
            pass  # the client hung up, or connected and said nothing
        finally:
            self._clients.discard(client)
            _hang_up(client)


def _hang_up(client: socket.socket) -> None:
    with suppress(OSError):  # the client may have been first
        client.shutdown(socket.SHUT_RDWR)
    client.close()


def _read(client: socket.socket) -> Request:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(client)
    head, body = data.split(b"\r\n\r\n", 1)
    first, *lines = head.decode().split("\r\n")
    headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += _more(client)
    return Request(first.split()[1], headers, json.loads(body))


def _more(client: socket.socket) -> bytes:
    data = client.recv(65536)
    if not data:
        raise EOFError
    return data


# --- behaviours ---------------------------------------------------------------------------------

USAGE = {"prompt_tokens": 120, "completion_tokens": 7, "total_tokens": 127}


def delta(text: str, *, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return _chunk([choice])


def _chunk(choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> dict[str, Any]:
    shown = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
    return shown | {"choices": choices} | ({"usage": usage} if usage else {})


NO_CHOICES = _chunk([])


def answer(*pieces: str, usage: bool = True) -> Behaviour:
    """These pieces, one event each, or whole for a request without `stream`."""
    return lambda connection: _answer(connection, pieces, usage)


def _answer(connection: Connection, pieces: Sequence[str], usage: bool) -> None:
    body = connection.request.body
    if not body.get("stream"):
        message = {"role": "assistant", "content": "".join(pieces)}
        whole = {"id": "c1", "object": "chat.completion", "created": 1, "model": "scripted"}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        reply = whole | {"choices": choices} | ({"usage": USAGE} if usage else {})
        connection.reply(200, json.dumps(reply).encode())
        return
    connection.begin()
    for text in pieces:
        connection.event(delta(text))
    connection.event(delta("", finish="stop"))
    if usage and body.get("stream_options", {}).get("include_usage"):
        connection.event(_chunk([], USAGE))
    connection.end()


def grounded(sources: int = 1) -> Behaviour:
    """The sentence of each of the first sources that is most like the question, with its mark."""

    def behave(connection: Connection) -> None:
        request = connection.request
        told = [f"{_closest(t, request.question)} [{n}]" for n, t in request.sources.items()]
        _answer(connection, list(_cut(" ".join(told[:sources]), 5)), usage=True)

    return behave


def _closest(text: str, question: str) -> str:
    wanted = set(question.lower())
    found = [s.strip() for s in _SENTENCE.findall(text.split("\n", 1)[1])]
    return max(found, key=lambda s: len(wanted & set(s.lower())) / len(s) ** 0.5)


def _cut(text: str, size: int) -> Iterator[str]:
    return (text[i : i + size] for i in range(0, len(text), size))


def bytewise(text: str) -> Behaviour:
    """One event whose every byte is a TCP write and an HTTP chunk of its own."""

    def behave(connection: Connection) -> None:
        connection.begin()
        event = json.dumps(delta(text, finish="stop"), ensure_ascii=False)
        for byte in f"data: {event}\n\n".encode():
            connection.piece(bytes([byte]))
        connection.end()

    return behave


def tool_calls(*wanted: tuple[str, str], size: int = 4, bytewise: bool = False) -> Behaviour:
    """Calls of these tools with these arguments, in fragments of `size` characters, those of
    several calls in turn; `bytewise` sends every byte of the stream on its own."""

    def behave(connection: Connection) -> None:
        if not connection.request.body.get("stream"):
            _reply_calls(connection, wanted)
            return
        connection.begin()
        for event in [*_call_deltas(wanted, size), _chunk([], USAGE)]:
            data = f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode()
            for piece in [data[i : i + 1] for i in range(len(data))] if bytewise else [data]:
                connection.piece(piece)
        connection.end()

    return behave


def _call_deltas(wanted: Sequence[tuple[str, str]], size: int) -> Iterator[dict[str, Any]]:
    """As OpenAI sends them: the name and an id first, then the arguments, all by their index."""

    def part(index: int, call: dict[str, Any]) -> dict[str, Any]:
        delta = {"tool_calls": [{"index": index, **call}]}
        return _chunk([{"index": 0, "delta": delta, "finish_reason": None}])

    for index, (name, _) in enumerate(wanted):
        function = {"name": name, "arguments": ""}
        yield part(index, {"id": f"call_{index}", "type": "function", "function": function})
    fragments = [list(_cut(arguments, size)) for _, arguments in wanted]
    for nth in range(max(map(len, fragments))):
        for index, of_call in enumerate(fragments):
            if nth < len(of_call):
                yield part(index, {"function": {"arguments": of_call[nth]}})
    yield _chunk([{"index": 0, "delta": {}, "finish_reason": "tool_calls"}])


def _reply_calls(connection: Connection, wanted: Sequence[tuple[str, str]]) -> None:
    calls = [
        {"id": f"call_{i}", "type": "function", "function": {"name": n, "arguments": a}}
        for i, (n, a) in enumerate(wanted)
    ]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    whole = {"id": "c1", "object": "chat.completion", "created": 1, "model": "scripted"}
    choices = [{"index": 0, "message": message, "finish_reason": "tool_calls"}]
    connection.reply(200, json.dumps(whole | {"choices": choices, "usage": USAGE}).encode())


def status(code: int, headers: dict[str, str] | None = None, message: str = "") -> Behaviour:
    """An error as OpenAI words it: real servers repeat the key and the request in it."""

    def behave(connection: Connection) -> None:
        key = connection.request.headers.get("authorization", "")
        error = {"error": {"message": f"{message} {key}", "type": "error", "code": str(code)}}
        connection.reply(code, json.dumps(error).encode(), headers=headers)

    return behave


def gated(gate: threading.Event, first: str, second: str) -> Behaviour:
    """`first`, then, once the gate is open, `second` and the end."""

    def behave(connection: Connection) -> None:
        connection.begin()
        if first:
            connection.event(delta(first))
        assert gate.wait(DEADLINE)
        connection.event(delta(second))
        connection.event(delta("", finish="stop"))
        connection.end()

    return behave


def late(gate: threading.Event, behaviour: Behaviour) -> Behaviour:
    """Not a byte until the gate is open, and then this."""

    def behave(connection: Connection) -> None:
        assert gate.wait(DEADLINE)
        behaviour(connection)

    return behave


def silent(connection: Connection) -> None:
    """Takes the request and never says a word."""
    connection.wait_until_gone()


def stalled(text: str) -> Behaviour:
    """`text`, and then nothing, with the connection open."""

    def behave(connection: Connection) -> None:
        connection.begin()
        connection.event(delta(text))
        connection.wait_until_gone()

    return behave


def cut(text: str) -> Behaviour:
    """`text`, and then the connection is closed inside the body."""

    def behave(connection: Connection) -> None:
        connection.begin()
        connection.event(delta(text))

    return behave


def unfinished(text: str) -> Behaviour:
    """`text`, and a proper end of the body without a finish reason or [DONE]."""

    def behave(connection: Connection) -> None:
        connection.begin()
        connection.event(delta(text))
        connection.send(b"0\r\n\r\n")

    return behave


def events(*data: dict[str, Any] | str) -> Behaviour:
    """These events as they are, and [DONE]."""

    def behave(connection: Connection) -> None:
        connection.begin()
        for event in data:
            connection.event(event)
        connection.end()

    return behave


def page(connection: Connection) -> None:
    """What a wrong base URL often gives: a web page, with status 200."""
    connection.reply(200, b"<!doctype html><title>Welcome</title>", "text/html")


def body(data: Any) -> Behaviour:
    """This JSON with status 200."""
    return lambda connection: connection.reply(200, json.dumps(data).encode())
