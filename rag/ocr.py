"""Text in pictures, by the models that come with RapidOCR: a screenshot finds its page."""

from __future__ import annotations

import io
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag.errors import ConfigError, InputError
from rag.types import Image

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_MODELS = {"Det.model_path": "*_det*.onnx", "Rec.model_path": "*_rec*.onnx"}
_SIDE = 2000  # pixels; what RapidOCR makes larger pictures smaller to
_SLENDER = 3  # long side by short side


class Ocr:
    """Reads Chinese and English. Never touches the network; one picture at a time, in any thread.

    Lines it is less sure of than `min_confidence` (0..1) are left out, and what is longer than
    `max_chars` is cut. Raises ConfigError without the `ocr` extra.
    """

    def __init__(self, *, min_confidence: float = 0.6, max_chars: int = 2000) -> None:
        if not self.available():
            raise ConfigError(
                "Text in pictures needs the `ocr` extra.", "pip install 'rag-server[ocr]'"
            )
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
        with self._one_at_a_time:
            found = self._read(_prepared(image))
        lines = [
            line.strip()
            for line, confidence in zip(found.txts or (), found.scores or (), strict=True)
            if confidence >= self._min_confidence
        ]
        return "\n".join(filter(None, lines))[: self._max_chars].rstrip()


def _prepared(image: Image) -> Picture:
    """At most _SIDE pixels a side and never slender: RapidOCR would enlarge a picture of 30 x 2000
    pixels until its short side has 736, which takes gigabytes."""
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    try:
        with Pillow.open(io.BytesIO(image.data)) as opened:
            opened.thumbnail((_SIDE, _SIDE), Pillow.Resampling.LANCZOS)
            picture = opened.convert("RGBA" if opened.has_transparency_data else "RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        raise InputError("An image is not a picture that can be read.") from None
    least = -(-max(picture.size) // _SLENDER)
    if min(picture.size) >= least:
        return picture
    size = (max(picture.width, least), max(picture.height, least))
    padded = Pillow.new(picture.mode, size, picture.getpixel((0, 0)))
    padded.paste(picture)
    return padded


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
