"""What protects the server and the page. Plain ASGI, so that streams and disconnects pass."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from api.problems import problem

_API_PAGES = ("/docs", "/redoc")
# The page loads nothing from elsewhere and runs no script but its own files.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; style-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_READING = {"GET", "HEAD", "OPTIONS"}


class SafeHeaders:
    """Adds the headers that keep a page safe."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(_HEADERS)
        if scope["path"].startswith(_API_PAGES):  # they load their scripts from elsewhere
            del headers["Content-Security-Policy"]

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        await self._app(scope, receive, send_with_headers)


class SameOrigin:
    """Refuses changes and questions that another website's page sends through a reader's browser.

    Browsers name the page's origin with every such request; other clients name none.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in _READING:
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != headers.get("host"):
                refusal = problem(
                    403,
                    "origin",
                    f"Pages of {origin} may not use this server.",
                    "Use its own page.",
                )
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


class BodyLimit:
    """Refuses a request whose body is larger than `max_bytes`, before it fills the disk."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            await self._refuse(scope, receive, send)
            return
        received = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                # Without an announced length nothing better is left than to hang up.
                return {"type": "http.disconnect"}
            return message

        await self._app(scope, counted, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._max_bytes // 1_000_000
        refusal = problem(
            413,
            "too_large",
            f"The request is larger than {limit} MB.",
            "Send fewer or smaller files at once, or raise RAG_MAX_REQUEST_MB.",
        )
        await refusal(scope, receive, send)
