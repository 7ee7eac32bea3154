"""DOCX by `unstructured`, after python-docx has put in order what it would leave out.

It skips text boxes, content controls and tracked insertions, and knows headings only by the names
of Word's own styles, not by the outline level that other styles carry.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from rag.load.build import Builder, Parsed
from rag.load.plain import chapter_level
from rag.load.rich import add_pieces, tame_unstructured

if TYPE_CHECKING:
    from docx.document import Document
    from unstructured.documents.elements import Element as Piece

_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_WRAPPERS = tuple(
    _WORD + tag for tag in ("sdt", "ins", "moveTo", "smartTag", "customXml", "fldSimple")
)
_LONG_RUN = 200  # texts and breaks: to read one, python-docx takes time in proportion to the square
_NAMED_HEADING = re.compile(r"(?:标题|heading)\s*([1-9])$", re.IGNORECASE)


def read(data: bytes) -> Parsed:
    import docx

    document = docx.Document(io.BytesIO(data))
    tame_unstructured()
    from unstructured.partition.docx import partition_docx

    if _put_in_order(document):
        file = io.BytesIO()
        document.save(file)
        data = file.getvalue()
    title = _styled_title(document)
    builder = Builder()
    seen: set[str] = set()
    pieces = []
    for piece in partition_docx(file=io.BytesIO(data), languages=[""]):
        if piece.category in ("Header", "Footer"):
            if piece.text in seen:
                continue
            seen.add(piece.text)
        if piece.category == "Title" and title and " ".join(piece.text.split()) == title:
            piece.metadata.category_depth = -1  # above Heading 1, which has 0
        pieces.append(piece)
    if not any(piece.category == "Title" for piece in pieces):
        pieces = [_as_chapter(piece) for piece in pieces]
    add_pieces(builder, pieces)
    return builder.parsed(title or _only_top_heading(pieces) or _property(document))


def _as_chapter(piece: Piece) -> Piece:
    """In a document without a single heading style, a paragraph like 第一章 总则 is a heading."""
    from unstructured.documents.elements import Title

    level = chapter_level(piece.text.strip()) if piece.category != "Table" else 0
    if not level:
        return piece
    piece.metadata.category_depth = level - 1
    return Title(piece.text, metadata=piece.metadata)


def _styled_title(document: Document) -> str:
    for paragraph in document.paragraphs:
        if paragraph.style is not None and paragraph.style.name == "Title":
            return " ".join(paragraph.text.split())
    return ""


def _only_top_heading(pieces: list[Piece]) -> str:
    """A single Heading 1 names the document; several are its chapters."""
    top = [p for p in pieces if p.category == "Title" and not p.metadata.category_depth]
    return " ".join(top[0].text.split()) if len(top) == 1 else ""


def _property(document: Document) -> str:
    title = " ".join((document.core_properties.title or "").split())
    return "" if title.lower() in ("word document", "untitled") else title


def _put_in_order(document: Document) -> bool:
    """Whether anything had to be changed."""
    body = document.element.body
    changed = _name_heading_styles(document)
    changed |= _style_outlined_paragraphs(document)
    changed |= _lift_text_boxes(body)
    changed |= _unwrap(body)
    return _cut_long_runs(body) or changed


def _name_heading_styles(document: Document) -> bool:
    """A style with an outline level gets the name of the heading of that level."""
    changed = False
    by_id = {style.get(_WORD + "styleId"): style for style in document.styles.element}
    for style in document.styles.element.iterchildren(_WORD + "style"):
        name = style.find(_WORD + "name")
        if name is None or style.get(_WORD + "type") != "paragraph":
            continue
        current = name.get(_WORD + "val") or ""
        if re.match(r"(heading \d|title|subtitle|toc)", current, re.IGNORECASE):
            continue
        named = _NAMED_HEADING.match(current)
        level = int(named[1]) if named else _style_level(style, by_id)
        if level:
            name.set(_WORD + "val", f"heading {level}")
            changed = True
    return changed


def _style_level(style: Any, by_id: Mapping[str, Any]) -> int:
    """1 to 9 by the nearest outline level in the chain of styles, 0 for body text."""
    seen: set[int] = set()
    while style is not None and id(style) not in seen:
        seen.add(id(style))
        if level := _outline_level(style):
            return level % 10
        based_on = style.find(_WORD + "basedOn")
        style = None if based_on is None else by_id.get(based_on.get(_WORD + "val"))
    return 0


def _outline_level(holder: Any) -> int:
    """1 to 9 for a heading, 10 for what is said to be body text, 0 if nothing is said."""
    outline = holder.find(f"{_WORD}pPr/{_WORD}outlineLvl")
    value = "" if outline is None else outline.get(_WORD + "val") or ""
    return int(value) + 1 if value.isdecimal() and int(value) <= 9 else 0


def _style_outlined_paragraphs(document: Document) -> bool:
    """A paragraph with an outline level of its own gets a heading's style of that level."""
    changed = False
    made: set[int] = set()
    for paragraph in document.element.body.iter(_WORD + "p"):
        level = _outline_level(paragraph) % 10
        if not level or paragraph.find(f"{_WORD}pPr/{_WORD}numPr") is not None:
            continue
        style_id = f"RagHeading{level}"
        if level not in made:
            made.add(level)
            style = document.styles.element.makeelement(
                _WORD + "style", {_WORD + "type": "paragraph", _WORD + "styleId": style_id}
            )
            name = style.makeelement(_WORD + "name", {_WORD + "val": f"heading {level}"})
            style.append(name)
            document.styles.element.append(style)
        paragraph.style = style_id
        changed = True
    return changed


def _lift_text_boxes(body: Any) -> bool:
    """The paragraphs of a text box go below the paragraph it hangs on."""
    for fallback in list(body.iter(_FALLBACK)):
        fallback.getparent().remove(fallback)  # the same box again, for old programs
    boxes = list(body.iter(_WORD + "txbxContent"))
    for box in reversed(boxes):
        anchor = _outermost_paragraph(box)
        if anchor is not None:
            for block in reversed(list(box)):
                anchor.addnext(deepcopy(block))
        box.getparent().remove(box)
    return bool(boxes)


def _outermost_paragraph(node: Any) -> Any:
    paragraphs = list(node.iterancestors(_WORD + "p"))
    return paragraphs[-1] if paragraphs else None


def _unwrap(body: Any) -> bool:
    """Content controls and tracked insertions give way to what is in them."""
    wrappers = list(_wrappers(body))
    for wrapper in reversed(wrappers):
        content = wrapper.find(_WORD + "sdtContent") if wrapper.tag.endswith("}sdt") else wrapper
        parent, position = wrapper.getparent(), wrapper.getparent().index(wrapper)
        parent.remove(wrapper)
        for child in reversed(list(content) if content is not None else []):
            parent.insert(position, child)
    return bool(wrappers)


def _cut_long_runs(body: Any) -> bool:
    """A run of very many lines, as pasted logs are, gives way to several."""
    long = [run for run in body.iter(_WORD + "r") if len(run) > _LONG_RUN]
    for run in long:
        parts = list(run)
        for start in reversed(range(_LONG_RUN, len(parts), _LONG_RUN)):
            piece = run.makeelement(run.tag)
            piece.extend(parts[start : start + _LONG_RUN])
            run.addnext(piece)
    return bool(long)


def _wrappers(body: Any) -> Iterator[Any]:
    """But a table of contents stays wrapped, and so is skipped: its lines are all said again."""
    for node in body.iter(*_WRAPPERS):
        gallery = node.find(f"{_WORD}sdtPr/{_WORD}docPartObj/{_WORD}docPartGallery")
        if gallery is None or "contents" not in (gallery.get(_WORD + "val") or "").lower():
            yield node
