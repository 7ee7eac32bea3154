"""Asking the web, within limits and only at addresses that were checked.

The connection goes to the very address that was checked, so that a name which means another machine
a moment later (DNS rebinding) leads nowhere; the Host header and TLS see the name. There is no
proxy, no cookie and no credential.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from rag.errors import FileTooLargeError, LoadError
from rag.origins.addresses import Guard, shown
from rag.origins.kept import Kept
from rag.origins.remote import USER_AGENT, Limits, check_size

if TYPE_CHECKING:
    import ssl

    import httpcore2

_REDIRECTS = {301, 302, 303, 307, 308}
_DEFAULT_PORTS = {"http": 80, "https": 443}
_CONDITIONS = {"etag": "If-None-Match", "last-modified": "If-Modified-Since"}
_UNRESERVED = "/:@!$&'()*+,;=~-._%"
_PATIENCE = 2.0  # a longer delay than this many times `seconds` is not waited for


@dataclass(frozen=True, slots=True)
class Page:
    """What a server said. `url` is where it was found at last, `media_type` without parameters."""

    url: str
    status: int
    media_type: str
    data: bytes


def found(page: Page) -> Page:
    """The page itself. Raises LoadError if the server answered with something else."""
    if page.status != 200:
        raise LoadError(
            f"{shown(page.url)} answered with status {page.status}.", _hint(page.status)
        )
    return page


def _hint(status: int) -> str:
    if status in (401, 403):
        return "It is not public; download it and ingest the file."
    if status in (404, 410):
        return "Check the address. What was ingested from it is kept; remove it with: rag docs rm"
    return "Try again later."


def canonical(url: str) -> str:
    """The same address however it is written: host in lower case and ASCII, no fragment, no default
    port, a path, characters beyond ASCII percent-encoded."""
    parts = urlsplit(url.strip())
    host = (parts.hostname or "").rstrip(".")
    if not host.isascii():
        import idna

        try:
            host = idna.encode(host, uts46=True).decode()
        except UnicodeError:
            raise LoadError(f"{shown(url)} names no host.", "Check the address.") from None
    if ":" in host:
        host = f"[{host}]"
    if parts.port is not None and parts.port != _DEFAULT_PORTS.get(parts.scheme):
        host = f"{host}:{parts.port}"
    path = quote(parts.path or "/", safe=_UNRESERVED)
    query = quote(parts.query, safe=_UNRESERVED + "?")
    return urlunsplit((parts.scheme.lower(), host, path, query, ""))


class Fetcher:
    """GET requests, from several threads. Close it at the end."""

    def __init__(
        self,
        *,
        guard: Guard,
        kept: Kept,
        limits: Limits,
        user_agent: str = USER_AGENT,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        import httpcore2

        self._guard = guard
        self._kept = kept
        self._limits = limits
        self._user_agent = user_agent
        self._clock = clock
        self._pool = httpcore2.ConnectionPool(
            ssl_context=tls,
            max_connections=limits.concurrency,
            network_backend=_checked_connections(guard),
        )
        self._turns = _Turns(clock, sleep)
        self._fetched = 0
        self._counting = threading.Lock()

    def close(self) -> None:
        self._pool.close()

    def slow_down(self, url: str, seconds: float) -> None:
        """Leaves at least this long between two requests to the host of `url`. Raises LoadError if
        that is too long to wait."""
        if seconds > self._limits.seconds * _PATIENCE:
            raise LoadError(
                f"{urlsplit(url).netloc} asks to wait {seconds:g} s between two requests.",
                "Download the pages and ingest the files.",
            )
        self._turns.slow_down(urlsplit(url).netloc, seconds)

    def get(
        self, url: str, *, max_bytes: int, permit: Callable[[str], None] = lambda _url: None
    ) -> Page:
        """The page, after redirects, each of which is checked like `url` itself, and shown to
        `permit`, which may raise. A page that has not changed comes from what is kept. A page with
        a status other than 200 has no data.

        Raises LoadError, and InputError for an address that is not to be asked.
        """
        url = canonical(url)
        for _ in range(self._limits.max_redirects + 1):
            self._guard.check(url)
            permit(url)
            self._turns.wait(urlsplit(url).netloc, self._limits.delay)
            page = self._ask(url, max_bytes)
            if isinstance(page, Page):
                return page
            url = page
        raise LoadError(f"{shown(url)} is redirected too often.", "Check the address.")

    def _ask(self, url: str, max_bytes: int) -> Page | str:
        """The page, or the url it is redirected to."""
        import httpcore2

        item = self._kept.get(f"web:{url}")
        conditions = {} if item is None else _conditions(item.facts)
        headers = {
            "Host": urlsplit(url).netloc,
            "User-Agent": self._user_agent,
            "Accept": "text/html, application/xhtml+xml, application/pdf, text/*;q=0.9, */*;q=0.5",
            "Accept-Encoding": "identity",
            **conditions,
        }
        seconds = self._limits.seconds
        timeout = dict.fromkeys(("connect", "read", "write", "pool"), seconds)
        until = self._clock() + seconds
        try:
            with self._pool.stream(
                "GET", url, headers=list(headers.items()), extensions={"timeout": timeout}
            ) as response:
                said = _headers(response.headers)
                if response.status in _REDIRECTS and "location" in said:
                    return self._redirected(url, said["location"])
                if response.status == 304 and item is not None:
                    return Page(url, 200, item.facts.get("type", ""), item.data)
                if response.status != 200:
                    return Page(url, response.status, "", b"")
                if said.get("content-length", "").isdecimal():
                    check_size(shown(url), int(said["content-length"]), max_bytes)
                parts = self._counted(response.iter_stream(), url, until)
                data = _decoded(parts, said.get("content-encoding", ""), url, max_bytes)
        except httpcore2.TimeoutException:
            raise _too_slow(url) from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            raise LoadError(
                f"{shown(url)} cannot be fetched: {type(error).__name__}.", "Try again later."
            ) from None
        page = Page(url, 200, _media_type(said), data)
        facts = {name: said[name] for name in _CONDITIONS if name in said}
        if facts:
            self._kept.put(f"web:{url}", {**facts, "type": said.get("content-type", "")}, data)
        return page

    def _redirected(self, url: str, location: str) -> str:
        try:
            return canonical(urljoin(url, location))
        except ValueError:
            raise LoadError(
                f"{shown(url)} is redirected to what is no address.", "Check the address."
            ) from None

    def _counted(self, parts: Iterable[bytes], url: str, until: float) -> Iterator[bytes]:
        """The parts as they come, as long as there is time and room for them."""
        for part in parts:
            if self._clock() > until:
                raise _too_slow(url)
            with self._counting:
                self._fetched += len(part)
                if self._fetched > self._limits.max_total_bytes:
                    raise FileTooLargeError(
                        f"More than {self._limits.max_total_bytes / 1e6:g} MB were fetched.",
                        "Ingest parts of the site one by one.",
                    )
            yield part


@dataclass(slots=True)
class _Turns:
    """When each host may be asked again."""

    clock: Callable[[], float]
    sleep: Callable[[float], None]
    _next: dict[str, float] = field(default_factory=dict)
    _delays: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def slow_down(self, host: str, seconds: float) -> None:
        with self._lock:
            self._delays[host] = max(seconds, self._delays.get(host, 0.0))

    def wait(self, host: str, delay: float) -> None:
        with self._lock:
            now = self.clock()
            turn = max(now, self._next.get(host, now))
            self._next[host] = turn + max(delay, self._delays.get(host, 0.0))
        if turn > now:
            self.sleep(turn - now)


def _checked_connections(guard: Guard) -> httpcore2.NetworkBackend:
    """A network backend that resolves and checks a name itself, and connects to what it checked."""
    import httpcore2

    class Checked(httpcore2.SyncBackend):
        def connect_tcp(
            self,
            host: str,
            port: int,
            timeout: float | None = None,
            local_address: str | None = None,
            socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
        ) -> httpcore2.NetworkStream:
            failed: Exception | None = None
            for address in guard.addresses(host, port):
                try:
                    return super().connect_tcp(
                        address, port, timeout, local_address, socket_options
                    )
                except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                    failed = error
            assert failed is not None  # there is at least one address
            raise failed

    return Checked()


def _conditions(facts: Mapping[str, str]) -> dict[str, str]:
    return {header: facts[name] for name, header in _CONDITIONS.items() if name in facts}


def _headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}


def _media_type(said: dict[str, str]) -> str:
    message = Message()
    message["content-type"] = said.get("content-type", "")
    return message.get_content_type() if "content-type" in said else ""


def _decoded(parts: Iterable[bytes], encoding: str, url: str, max_bytes: int) -> bytes:
    """The body, never more of it than `max_bytes` however small it was packed."""
    name = encoding.strip().lower()
    if name not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise LoadError(f"{shown(url)} came packed in a way that was not asked for ({name[:20]}).")
    unpack = zlib.decompressobj(wbits=47) if name not in ("", "identity") else None
    data = bytearray()
    for part in parts:
        try:
            data += part if unpack is None else unpack.decompress(part, max_bytes + 1 - len(data))
        except zlib.error:
            raise LoadError(f"{shown(url)} came damaged.", "Try again later.") from None
        check_size(shown(url), len(data), max_bytes)
    if unpack is not None and data and not unpack.eof:
        raise LoadError(f"{shown(url)} came cut off.", "Try again later.")
    return bytes(data)


def _too_slow(url: str) -> LoadError:
    return LoadError(f"{shown(url)} did not answer in time.", "Try again later.")
