"""robots.txt (RFC 9309): what a site lets programs read."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from rag.errors import InputError, LoadError
from rag.origins.addresses import shown
from rag.origins.fetch import Fetcher

if TYPE_CHECKING:
    from protego import Protego

_MAX_BYTES = 512_000  # RFC 9309 asks for at least 500 KiB


class Robots:
    """The rules of each site that is asked, read once."""

    def __init__(self, fetcher: Fetcher, user_agent: str) -> None:
        self._fetcher = fetcher
        self._user_agent = user_agent
        self._rules: dict[str, Protego | LoadError] = {}
        self._lock = threading.Lock()

    def permit(self, url: str) -> None:
        """Raises LoadError if the site does not want `url` to be read, or does not say.

        A site without robots.txt (any status from 400 to 499) wants all of it to be read; one whose
        server fails wants none. A crawl delay slows down the fetcher.
        """
        parts = urlsplit(url)
        site = urlunsplit((parts.scheme, parts.netloc, "/robots.txt", "", ""))
        with self._lock:
            if site not in self._rules:
                self._rules[site] = self._read(site)
            rules = self._rules[site]
        if isinstance(rules, LoadError):
            raise rules
        if not rules.can_fetch(url, self._user_agent):
            raise LoadError(
                f"{shown(url)} is not for programs: the site's robots.txt forbids it.",
                "Ask its owner, or save the page and ingest the file.",
            )

    def _read(self, site: str) -> Protego | LoadError:
        from protego import Protego

        try:
            page = self._fetcher.get(site, max_bytes=_MAX_BYTES)
        except LoadError as error:
            return _silent(site, error)
        except InputError:  # redirected to where nobody is asked
            return _silent(site)
        if page.status != 200 and not 400 <= page.status < 500:
            return _silent(site)
        rules = Protego.parse(page.data.decode("utf-8-sig", errors="replace"))
        try:
            self._fetcher.slow_down(site, rules.crawl_delay(self._user_agent) or 0.0)
        except LoadError as error:
            return error
        return rules


def _silent(site: str, error: LoadError | None = None) -> LoadError:
    why = f": {error.message}" if error else "."
    hint = error.hint if error else "Try again later."
    return LoadError(f"{shown(site)} cannot be read, so nothing of the site is{why}", hint)
