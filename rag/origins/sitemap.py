"""Sitemaps (sitemaps.org/protocol.html): the pages a site lists, also gzipped and nested."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from rag.errors import DamagedFileError, FileTooLargeError

MAX_BYTES = 50 * 2**20  # the protocol's
_GZIP = b"\x1f\x8b"
_HEAD = 2048


@dataclass(frozen=True, slots=True)
class Listing:
    """The addresses a sitemap holds: of pages, or of further sitemaps. In its order, unchecked."""

    pages: tuple[str, ...] = ()
    sitemaps: tuple[str, ...] = ()


def is_sitemap(data: bytes) -> bool:
    """By its beginning."""
    head = _unpacked(data[:_HEAD], _HEAD)[0] if data.startswith(_GZIP) else data[:_HEAD]
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") and (
        b"<urlset" in head or b"<sitemapindex" in head
    )


def read_sitemap(data: bytes, name: str, *, max_bytes: int = MAX_BYTES) -> Listing:
    """Raises DamagedFileError, FileTooLargeError (more than `max_bytes` unpacked)."""
    from lxml import etree  # type: ignore[import-untyped]

    if data.startswith(_GZIP):
        data, whole = _unpacked(data, max_bytes)
        if not whole:
            raise FileTooLargeError(f"The sitemap {name} is too large.", "Split it.")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError):
        raise DamagedFileError(
            f"The sitemap {name} is not well-formed XML.", "Tell the site's owner."
        ) from None
    pages = [_text(n) for n in root.iterfind("{*}url/{*}loc")]
    sitemaps = [_text(n) for n in root.iterfind("{*}sitemap/{*}loc")]
    return Listing(tuple(filter(None, pages)), tuple(filter(None, sitemaps)))


def _text(node: object) -> str:
    return str(getattr(node, "text", None) or "").strip()


def _unpacked(data: bytes, limit: int) -> tuple[bytes, bool]:
    """At most `limit` bytes, and whether that is all."""
    unpack = zlib.decompressobj(wbits=31)
    try:
        return unpack.decompress(data, limit), not unpack.unconsumed_tail
    except zlib.error:
        return b"", True
