"""The text in the pictures of a question, where it can be read."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from rag.ocr import Ocr
from rag.types import Image


class Pictures:
    """Reads with the `ocr` extra, opened at the first picture."""

    def __init__(self, *, enabled: bool) -> None:
        self.can_read = enabled and Ocr.available()
        self._ocr: Ocr | None = None
        self._opening = threading.Lock()

    def texts(self, images: Sequence[Image]) -> tuple[str, ...]:
        """One for each image; none if nothing can be read here."""
        if not self.can_read:
            return ()
        with self._opening:
            self._ocr = self._ocr or Ocr()
        return tuple(self._ocr.text(image) for image in images)
