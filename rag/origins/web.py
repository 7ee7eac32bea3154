"""Pages of the web as documents: one, or those a sitemap lists."""

from __future__ import annotations

import re
import shutil
import ssl
import tempfile
import time
import unicodedata
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from html import unescape
from itertools import count
from os.path import commonprefix
from pathlib import Path, PurePosixPath
from typing import NoReturn
from urllib.parse import unquote, urljoin, urlsplit

from rag.errors import InputError, LoadError, RagError
from rag.files import Loads
from rag.ingest import Covers, Plan
from rag.load import SUPPORTED_TYPES
from rag.origins import sitemap
from rag.origins.addresses import Guard, shown
from rag.origins.fetch import Fetcher, Page, canonical, found
from rag.origins.kept import Kept
from rag.origins.remote import USER_AGENT, Limits, RemoteSource
from rag.origins.robots import Robots

_TYPES = {
    "text/html": "html",
    "application/xhtml+xml": "html",
    "application/pdf": "pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/epub+zip": "epub",
    "application/json": "json",
    "application/x-ndjson": "jsonl",
    "message/rfc822": "eml",
    "text/csv": "csv",
    "text/markdown": "md",
    "text/tab-separated-values": "tsv",
}
_LINK = re.compile(rb"<link\b[^>]{0,2000}>", re.IGNORECASE)
_IS_CANONICAL = re.compile(r"""\brel\s*=\s*["']?canonical\b""", re.IGNORECASE)
_HREF = re.compile(r"""\bhref\s*=\s*["']?([^"'\s>]+)""", re.IGNORECASE)
_HEAD_BYTES = 100_000
_NOT_SHOWN = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Web:
    """How the web is asked."""

    kept: Kept
    max_bytes: int
    loads: Loads
    guard: Guard = field(default_factory=Guard)
    limits: Limits = field(default_factory=Limits)
    user_agent: str = USER_AGENT
    tls: ssl.SSLContext | None = None
    on_notice: Callable[[str], None] = lambda _notice: None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def plan_web(address: str, web: Web) -> Plan:
    """The page at `address`, or every page that a sitemap there lists, fetched now.

    A page's uri is its canonical address, its name host and path. A sitemap brings pages of its own
    host only, and covers what it ever listed, unless it is cut off by the limits or cannot be read
    as a whole. A page that cannot be fetched is a source that fails and keeps its document. Raises
    InputError for an address that is not to be asked.
    """
    web.guard.check(address)
    with closing(
        Fetcher(
            guard=web.guard, kept=web.kept, limits=web.limits, user_agent=web.user_agent,
            tls=web.tls, clock=web.clock, sleep=web.sleep,
        )
    ) as fetcher:  # fmt: skip
        return _Reading(web, fetcher).plan(canonical(address))


class _Reading:
    """One plan being made."""

    def __init__(self, web: Web, fetcher: Fetcher) -> None:
        self._web = web
        self._fetcher = fetcher
        self._robots = Robots(fetcher, web.user_agent)
        self._spool = _Spool()

    def plan(self, url: str) -> Plan:
        try:
            page = self._page(url, max(self._web.max_bytes, sitemap.MAX_BYTES))
        except RagError as error:
            return Plan([self._failing(url, error)])
        if not sitemap.is_sitemap(page.data):
            return Plan([self._source(url, page)])
        return self._plan_sitemap(url, page)

    def _page(self, url: str, max_bytes: int) -> Page:
        return found(self._fetcher.get(url, max_bytes=max_bytes, permit=self._robots.permit))

    # --- sitemaps -----------------------------------------------------------------------------

    def _plan_sitemap(self, url: str, page: Page) -> Plan:
        listed = _Listed(urlsplit(page.url).netloc, self._web.limits.max_documents)
        failing = self._walk(page, listed, depth=1)
        self._web.on_notice(f"{shown(url)} lists {len(listed.pages)} pages.")
        sources = {s.uri: s for s in [*self._fetch_all(list(listed.pages)), *failing]}
        uris = self._web.kept.remember(f"sitemap:{url}", sources)
        self._web.kept.prune()
        whole = listed.whole and not failing and bool(listed.pages)
        ordered = sorted(sources.values(), key=lambda source: source.name)
        prefixes = (commonprefix(list(uris)),) if whole else ()  # noqa: RUF071 - of characters
        return Plan(
            ordered,
            covers=Covers(prefixes, lambda uri: uri in uris),
            notes=listed.notes(shown(url)),
        )

    def _walk(self, page: Page, listed: _Listed, depth: int) -> list[RemoteSource]:
        """Fills `listed`; what of it cannot be read becomes a source that fails."""
        try:
            listing = sitemap.read_sitemap(page.data, shown(page.url))
        except LoadError as error:
            return [self._failing(page.url, error)]
        listed.add(listing.pages, page.url)
        if listing.sitemaps and depth >= self._web.limits.max_depth:
            listed.too_deep = True
            return []
        failing: list[RemoteSource] = []
        for url in listed.of_this_host(listing.sitemaps, page.url):
            if url in listed.sitemaps or listed.is_full:
                continue
            listed.sitemaps.add(url)
            try:
                below = self._page(url, sitemap.MAX_BYTES)
            except RagError as error:
                failing.append(self._failing(url, error))
            else:
                failing += self._walk(below, listed, depth + 1)
        return failing

    def _fetch_all(self, urls: Sequence[str]) -> list[RemoteSource]:
        threads = ThreadPoolExecutor(self._web.limits.concurrency, thread_name_prefix="web")
        try:
            return list(threads.map(self._fetched, urls))
        finally:  # when interrupted, what has not begun is left
            threads.shutdown(cancel_futures=True)

    def _fetched(self, url: str) -> RemoteSource:
        try:
            return self._source(url, self._page(url, self._web.max_bytes))
        except RagError as error:
            return self._failing(url, error)

    # --- sources ------------------------------------------------------------------------------

    def _source(self, url: str, page: Page) -> RemoteSource:
        uri = _declared(page) or page.url
        if uri != url:
            self._web.kept.put(f"moved:{url}", {"to": uri}, b"")
        try:
            fetch = self._spool.keep(page.data)
        except OSError as error:
            return self._failing(url, LoadError(f"No room for {shown(url)}: {error.strerror}."))
        return self._remote(uri, _file_name(page), fetch)

    def _failing(self, url: str, error: RagError) -> RemoteSource:
        """Under the uri that its document has, if there is one, so that it is kept."""
        moved = self._web.kept.get(f"moved:{url}")

        def fail() -> NoReturn:
            raise error if isinstance(error, LoadError) else LoadError(error.message, error.hint)

        return self._remote(moved.facts["to"] if moved else url, "page.html", fail)

    def _remote(self, uri: str, file_name: str, fetch: Callable[[], bytes]) -> RemoteSource:
        return RemoteSource(
            uri, name_of(uri), file_name, fetch, self._web.max_bytes, self._web.loads
        )


class _Listed:
    """The pages of one host that its sitemaps list, each once, as many as are wanted."""

    def __init__(self, host: str, limit: int) -> None:
        self._host = host
        self._limit = limit
        self._elsewhere = 0
        self.pages: dict[str, None] = {}
        self.sitemaps: set[str] = set()
        self.is_full = False
        self.too_deep = False

    @property
    def whole(self) -> bool:
        return not (self.is_full or self.too_deep)

    def add(self, urls: Sequence[str], base: str) -> None:
        for url in self.of_this_host(urls, base):
            if len(self.pages) >= self._limit and url not in self.pages:
                self.is_full = True
                return
            self.pages[url] = None

    def of_this_host(self, urls: Sequence[str], base: str) -> Iterator[str]:
        for given in urls:
            try:
                url = canonical(urljoin(base, given))
            except (ValueError, LoadError):
                self._elsewhere += 1
                continue
            if urlsplit(url).netloc == self._host:
                yield url
            else:
                self._elsewhere += 1

    def notes(self, name: str) -> list[str]:
        notes = []
        if self.is_full:
            notes.append(f"{name} lists more than {self._limit} pages; the first were read.")
        if self.too_deep:
            notes.append(f"{name} nests sitemaps deeper than is followed.")
        if self._elsewhere:
            notes.append(f"{name} lists {self._elsewhere} pages of other hosts, which are left.")
        return notes


class _Spool:
    """Bodies on disk until their turn comes, for as long as a source holds on to them."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="rag-web-"))
        self._numbers = count()
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def keep(self, data: bytes) -> Callable[[], bytes]:
        path = self._folder / str(next(self._numbers))
        path.write_bytes(data)
        return lambda: self._read(path)

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise LoadError(f"A fetched page is gone: {error.strerror}.", "Try again.") from None


def name_of(uri: str) -> str:
    """Host, path and query, for a person to read."""
    parts = urlsplit(uri)
    query = f"?{parts.query}" if parts.query else ""
    name = f"{parts.netloc}{unquote(parts.path)}".rstrip("/") + unquote(query)
    return unicodedata.normalize("NFC", _NOT_SHOWN.sub("\ufffd", name))


def _declared(page: Page) -> str:
    """What the page calls its canonical address, where that only leaves out parameters or asks for
    https. One that names another page is more often a mistake of the site than a copy."""
    if page.media_type not in ("text/html", "application/xhtml+xml"):
        return ""
    for tag in _LINK.findall(page.data[:_HEAD_BYTES]):
        text = tag.decode("latin-1")
        href = _HREF.search(text) if _IS_CANONICAL.search(text) else None
        if href is None:
            continue
        try:
            url = canonical(urljoin(page.url, unescape(href[1])))
        except (ValueError, LoadError, InputError):
            return ""
        here, there = urlsplit(page.url), urlsplit(url)
        same = (here.netloc, here.path) == (there.netloc, there.path)
        return url if same and there.scheme in ("https", here.scheme) else ""
    return ""


def _file_name(page: Page) -> str:
    """With the extension of what it is said to be; `rag.load` looks at the bytes."""
    path = PurePosixPath(unquote(urlsplit(page.url).path))
    suffix = path.suffix.lower().removeprefix(".")
    kind = _TYPES.get(page.media_type, "")
    if not kind and suffix in SUPPORTED_TYPES:
        kind = suffix
    if not kind and page.media_type == "text/plain":
        kind = "txt"
    if not kind and page.data[:256].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        kind = "html"
    if not kind and page.data.startswith(b"%PDF-"):
        kind = "pdf"
    if not kind:
        kind = suffix or "bin"
    stem = path.stem or urlsplit(page.url).hostname or "page"
    return _NOT_SHOWN.sub("\ufffd", f"{stem}.{kind}").replace("/", "_")
