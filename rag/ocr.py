"""Text in pictures, by the models that come with RapidOCR: a screenshot finds its page."""

from __future__ import annotations

import io
import statistics
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag.errors import ConfigError, InputError
from rag.types import Image

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

INSTALL = "pip install 'rag-server[ocr]'"
_MODELS = {"Det.model_path": "*_det*.onnx", "Rec.model_path": "*_rec*.onnx"}
_SIDE = 2000  # pixels; what RapidOCR makes larger pictures smaller to
_SLENDER = 3  # long side by short side
_DOUBTFUL = 0.8  # lines that are upside down are read with about 0.5, others with 0.95


@dataclass(frozen=True, slots=True)
class ReadLine:
    """A line of a picture; its box in pixels from the upper left corner, the picture upright."""

    text: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class _Found:
    """What was read of a picture in one position. `confidence` is the mean over characters."""

    lines: Sequence[tuple[ReadLine, float]]
    confidence: float

    @property
    def lying(self) -> bool:
        """Most lines are columns: the picture lies on its side."""
        tall = [line for line, _ in self.lines if line.bottom - line.top > line.right - line.left]
        return 2 * len(tall) > len(self.lines)


class Ocr:
    """Reads Chinese and English. Never touches the network; one picture at a time, in any thread.

    Lines it is less sure of than `min_confidence` (0..1) are left out, and what is longer than
    `max_chars` is cut. Raises ConfigError without the `ocr` extra.
    """

    def __init__(self, *, min_confidence: float = 0.6, max_chars: int = 2000) -> None:
        if not self.available():
            raise ConfigError("Text in pictures needs the `ocr` extra.", INSTALL)
        from rapidocr import RapidOCR

        self._min_confidence = min_confidence
        self._max_chars = max_chars
        self._one_at_a_time = threading.Lock()
        # Pictures come upright, so the part that turns lines round is left out.
        params: dict[str, Any] = {"Global.log_level": "error", "Global.use_cls": False}
        self._read: Any = RapidOCR(params=params | _bundled_models())

    @staticmethod
    def available() -> bool:
        """Whether the extra is installed; nothing is loaded."""
        return all(find_spec(name) is not None for name in ("rapidocr", "cv2"))

    def text(self, image: Image) -> str:
        """The lines from top to bottom, one to a line; empty if there are none.

        Raises InputError if the picture cannot be decoded.
        """
        lines = self._sure(self._found(_opened(image)))
        return "\n".join(line.text for line in lines)[: self._max_chars].rstrip()

    def lines(self, picture: Picture) -> tuple[tuple[ReadLine, ...], tuple[int, int]]:
        """All lines of a page from top to bottom, and width and height of the page when upright.

        A page that lies on its side or stands on its head is turned.
        """
        found = self._found(picture)
        if found.lying:
            # RapidOCR turns tall lines to the left before it reads them.
            if found.confidence >= _DOUBTFUL:
                return self._sure(_turned_left(found, picture.width)), picture.size[::-1]
            turn = 270
        else:
            turn = 180
        if found.lines and found.confidence < _DOUBTFUL:
            turned = picture.rotate(turn, expand=True)
            again = self._found(turned)
            if again.confidence > found.confidence and not again.lying:
                return self._sure(again), turned.size
        return self._sure(found), picture.size

    def _found(self, picture: Picture) -> _Found:
        prepared, scale = _prepared(picture)
        with self._one_at_a_time:
            found = self._read(prepared, text_score=0.0)
        lines = [
            (_line(text.strip(), box, scale), float(confidence))
            for text, confidence, box in zip(
                found.txts or (),
                found.scores or (),
                found.boxes if found.boxes is not None else (),
                strict=True,
            )
            if text.strip()
        ]
        characters = sum(len(line.text) for line, _ in lines)
        weighed = sum(len(line.text) * confidence for line, confidence in lines)
        return _Found(lines, weighed / characters if characters else 0.0)

    def _sure(self, found: _Found) -> tuple[ReadLine, ...]:
        return tuple(line for line, sure in found.lines if sure >= self._min_confidence)


def _line(text: str, box: Any, scale: float) -> ReadLine:
    """`box` has four corners. Those of slanting text: middles of its sides are its true height."""
    (x1, y1), (x2, y2), (x3, y3), (x4, y4) = [[float(v) * scale for v in corner] for corner in box]
    return ReadLine(text, (x1 + x4) / 2, (y1 + y2) / 2, (x2 + x3) / 2, (y3 + y4) / 2)


def _turned_left(found: _Found, width: int) -> _Found:
    """As if the picture, `width` pixels wide, had been turned to the left, in its new order."""
    lines = [
        (ReadLine(o.text, o.top, width - o.right, o.bottom, width - o.left), sure)
        for o, sure in found.lines
    ]
    height = statistics.median(line.bottom - line.top for line, _ in lines)
    lines.sort(key=lambda pair: (round(pair[0].top / height), pair[0].left))
    return _Found(lines, found.confidence)


def _opened(image: Image) -> Picture:
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    try:
        with Pillow.open(io.BytesIO(image.data)) as opened:
            opened.thumbnail((_SIDE, _SIDE), Pillow.Resampling.LANCZOS)
            return opened.convert("RGBA" if opened.has_transparency_data else "RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        raise InputError("An image is not a picture that can be read.") from None


def _prepared(picture: Picture) -> tuple[Picture, float]:
    """At most _SIDE pixels a side and never slender: RapidOCR would enlarge a picture of 30 x 2000
    pixels until its short side has 736, which takes gigabytes. And the size of its pixels in the
    given one's."""
    from PIL import Image as Pillow

    if picture.mode not in ("RGB", "RGBA"):
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    longest = max(picture.size)
    if longest > _SIDE:
        picture = picture.copy()
        picture.thumbnail((_SIDE, _SIDE), Pillow.Resampling.LANCZOS)
    scale = longest / max(picture.size)
    least = -(-max(picture.size) // _SLENDER)
    if min(picture.size) >= least:
        return picture, scale
    size = (max(picture.width, least), max(picture.height, least))
    padded = Pillow.new(picture.mode, size, picture.getpixel((0, 0)))
    padded.paste(picture)
    return padded, scale


def _bundled_models() -> dict[str, Any]:
    """Named one by one, because RapidOCR downloads a model whose path it was not given."""
    package = find_spec("rapidocr")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "models"
    paths = {name: sorted(folder.glob(pattern)) for name, pattern in _MODELS.items()}
    if not all(paths.values()):
        raise ConfigError(
            "This installation of rapidocr has no models.", "pip install --force-reinstall rapidocr"
        )
    return {name: str(found[0]) for name, found in paths.items()}
