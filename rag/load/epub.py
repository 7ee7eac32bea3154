"""EPUB: the chapters of its spine, in order, each read as a web page.

`unstructured` needs pandoc for this format; a chapter is XHTML, so its own HTML reader does.
Formats: EPUB 3.3, sections 4.2.6 (container.xml), 5 (package document).
"""

from __future__ import annotations

import io
import posixpath
import zipfile
from typing import TYPE_CHECKING
from urllib.parse import unquote

from rag.errors import DamagedFileError, EncryptedFileError
from rag.load.build import Builder, Parsed
from rag.load.rich import add_html
from rag.load.webpage import text_of_html

if TYPE_CHECKING:
    from lxml.etree import _Element  # type: ignore[import-untyped]

_PAGES = ("application/xhtml+xml", "text/html")
_FONT_SCRAMBLING = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")


def read(data: bytes, name: str) -> Parsed:
    """Raises EncryptedFileError for a copy-protected book, DamagedFileError if it has no spine."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        _refuse_protected(archive, name)
        package_path = _package_path(archive, name)
        package = _xml(archive, package_path)
        builder = Builder()
        for path in _spine(package, posixpath.dirname(package_path)):
            if path in archive.NameToInfo:
                builder.headings.clear()
                add_html(builder, text_of_html(archive.read(path), name))
        return builder.parsed(_title(package))


def _xml(archive: zipfile.ZipFile, path: str) -> _Element:
    from lxml import etree  # type: ignore[import-untyped]

    parser = etree.XMLParser(resolve_entities=False, no_network=True, recover=True)
    root: _Element = etree.fromstring(archive.read(path), parser)
    return root


def _refuse_protected(archive: zipfile.ZipFile, name: str) -> None:
    if "META-INF/encryption.xml" not in archive.NameToInfo:
        return
    methods = _xml(archive, "META-INF/encryption.xml").iterfind(".//{*}EncryptionMethod")
    if any(method.get("Algorithm") not in _FONT_SCRAMBLING for method in methods):
        raise EncryptedFileError(f"{name} has copy protection.", "Use a copy without it.")


def _package_path(archive: zipfile.ZipFile, name: str) -> str:
    rootfile = _xml(archive, "META-INF/container.xml").find(".//{*}rootfile")
    path = "" if rootfile is None else rootfile.get("full-path") or ""
    if path not in archive.NameToInfo:
        raise DamagedFileError(
            f"{name} is damaged: it has no list of its chapters.", "Get another copy of it."
        )
    return path


def _spine(package: _Element, folder: str) -> list[str]:
    """Paths of the chapters in reading order, without the table of contents."""
    items = {item.get("id"): item for item in package.iterfind(".//{*}manifest/{*}item")}
    paths = []
    for reference in package.iterfind(".//{*}spine/{*}itemref"):
        item = items.get(reference.get("idref"))
        if item is None or item.get("media-type") not in _PAGES:
            continue
        if "nav" not in (item.get("properties") or "").split():
            href = unquote((item.get("href") or "").split("#")[0])
            paths.append(posixpath.normpath(posixpath.join(folder, href)))
    return paths


def _title(package: _Element) -> str:
    title = package.find(".//{*}metadata/{*}title")
    return "" if title is None else " ".join("".join(title.itertext()).split())
