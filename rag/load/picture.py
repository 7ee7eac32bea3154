"""Pictures (PNG, JPEG, WebP, BMP, and TIFF of many pages) read with the `ocr` extra."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rag.errors import DamagedFileError, FileTooLargeError, NoTextError
from rag.load.build import Builder, Parsed
from rag.load.lines import add_pages
from rag.load.scans import Scans

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

TYPES = ("png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # Pillow's names
_MAX_PIXELS = 120_000_000  # a page of A3 at 600 dpi has 70 million
_MAX_PAGES = 2_000
_SIDE = 3500  # pixels, of what is handed on


def read(data: bytes, name: str, scans: Scans) -> Parsed:
    """The frames of a TIFF are pages; any other picture has none. Without text it is a document
    without text, or it would be read again each time.

    Raises DamagedFileError, FileTooLargeError, and NoTextError where nothing could be read.
    """
    with _opened(data, name) as picture:
        count = min(getattr(picture, "n_frames", 1), _MAX_PAGES)
        paged = count if picture.format == "TIFF" else 1
        pages = [
            scans.lines(number, lambda number=number: _frame(picture, number, name))  # type: ignore[misc]
            for number in range(1, paged + 1)
        ]
    if not any(pages) and scans.unread:
        raise NoTextError(f"The picture {name} was not read.", scans.hint)
    if not any(pages):
        return Parsed("", (), notes=(*scans.notes, "no text was found in the picture"))
    builder = Builder()
    add_pages(builder, pages, numbered=paged > 1)
    return builder.parsed("", scans.notes, scans.lacking)


@contextmanager
def _opened(data: bytes, name: str) -> Iterator[Picture]:
    from PIL import Image as Pillow

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Pillow.open(io.BytesIO(data), formats=FORMATS) as picture:
                yield picture
        except Pillow.DecompressionBombError:
            raise _too_large(name) from None
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise DamagedFileError(
                f"{name} is damaged: it cannot be read as a picture ({error}).",
                "It may have been cut off on the way: copy or download it again.",
            ) from None


def _frame(picture: Picture, number: int, name: str) -> Picture:
    """Upright, in grey or colour without transparency, and not larger than is of use."""
    from PIL import Image as Pillow
    from PIL import ImageOps

    picture.seek(number - 1)
    if picture.width * picture.height > _MAX_PIXELS:
        raise _too_large(name)
    picture.draft("RGB", (_SIDE, _SIDE))  # a large JPEG is decoded smaller
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I;16"):
        upright = upright.point(lambda value: value / 256).convert("L")
    if upright.has_transparency_data:
        paper = Pillow.new("RGBA", upright.size, "white")
        paper.alpha_composite(upright.convert("RGBA"))
        upright = paper
    upright = upright.convert("RGB")
    upright.thumbnail((_SIDE, _SIDE), Pillow.Resampling.LANCZOS)
    return upright


def _too_large(name: str) -> FileTooLargeError:
    return FileTooLargeError(
        f"{name} has more than {_MAX_PIXELS // 1_000_000} million pixels.",
        "Scan it at 300 dpi or less.",
    )
