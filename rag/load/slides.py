"""PPTX by `unstructured`: one page a slide."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rag.load.build import Builder, Parsed
from rag.load.rich import add_pieces, tame_unstructured

if TYPE_CHECKING:
    from unstructured.documents.elements import Element as Piece


def read(data: bytes) -> Parsed:
    """A slide is a page, its title the heading of all on it, its notes come last."""
    tame_unstructured()
    from unstructured.partition.pptx import partition_pptx

    pieces = partition_pptx(file=io.BytesIO(data), include_slide_notes=False, languages=[""])
    slides: dict[int, list[Piece]] = {}
    for piece in pieces:
        slides.setdefault(piece.metadata.page_number or 1, []).append(piece)
    notes = _notes(data)
    builder = Builder()
    for number in sorted(slides.keys() | notes.keys()):
        builder.page = number
        _add_slide(builder, slides.get(number, []), notes.get(number, ""))
    title = _slide_title(slides.get(1, []))
    return builder.parsed(_line(title.text) if title else "")


def _notes(data: bytes) -> dict[int, str]:
    """By slide. `unstructured` gives notes as well, but does not say which text they are."""
    if b"ppt/notesSlides/" not in data:
        return {}
    import pptx

    found = {}
    for number, slide in enumerate(pptx.Presentation(io.BytesIO(data)).slides, 1):
        frame = slide.notes_slide.notes_text_frame if slide.has_notes_slide else None
        if frame is not None and frame.text.strip():
            found[number] = frame.text.replace("\v", "\n")
    return found


def _add_slide(builder: Builder, slide: Sequence[Piece], notes: str) -> None:
    title = _slide_title(slide)
    builder.headings.clear()
    if title:
        builder.heading(_line(title.text), 1)
    add_pieces(builder, (_as_text(piece) for piece in slide if piece is not title))
    builder.text(notes)


def _slide_title(slide: Sequence[Piece]) -> Piece | None:
    """The first paragraph of the slide's title: other lines that look like titles are deeper."""
    return next(
        (p for p in slide if p.category == "Title" and p.metadata.category_depth == 0), None
    )


def _as_text(piece: Piece) -> Piece:
    from unstructured.documents.elements import Text

    text = piece.text.replace("\v", "\n")
    if piece.category == "Title":
        return Text(text, metadata=piece.metadata)
    piece.text = text
    return piece


def _line(text: str) -> str:
    return " ".join(text.split())
