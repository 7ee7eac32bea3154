"""HTML that is nested deeper than libxml2 goes: it would silently drop the rest of the page.

Its limits are 256 elements in each other and 10 MB of text in one, or 2048 and none for a
`huge_tree`; `unstructured` parses once more, without `huge_tree`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lxml.html import HtmlElement  # type: ignore[import-untyped]

_MAX_DEPTH = 150
_MAX_TEXT = 9_000_000  # bytes


def parsed_whole(html: str) -> HtmlElement:
    """The tree of a page, without comments, at most 150 elements deep: deeper ones give way to
    their text. Raises RecursionError for a page beyond any depth, ValueError for one with more
    text in one place than can be read."""
    from lxml import html as lxml_html  # type: ignore[import-untyped]

    parser = lxml_html.HTMLParser(remove_comments=True, huge_tree=True)
    root = lxml_html.document_fromstring(html, parser=parser)
    if any(entry.type_name == "ERR_RESOURCE_LIMIT" for entry in parser.error_log):
        raise RecursionError
    _flatten(root)
    for node in root.iter():
        if _is_long(node.text) or _is_long(node.tail):
            raise ValueError(f"more than {_MAX_TEXT / 1e6:g} MB of text in one paragraph")
    return root


def _flatten(root: HtmlElement) -> None:
    depths: dict[Any, int] = {root: 0}
    for node in root.iter():
        parent = node.getparent()
        if parent is not None:
            depths[node] = depths[parent] + 1
    for node in [node for node, depth in depths.items() if depth == _MAX_DEPTH and len(node)]:
        text = " ".join(node.itertext())  # all at once: to drop them one by one takes far longer
        del node[:]
        node.text = text


def _is_long(text: str | None) -> bool:
    return text is not None and 4 * len(text) > _MAX_TEXT and len(text.encode()) > _MAX_TEXT
