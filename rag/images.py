"""Pictures that come with a question: checked before a model, or a bill, sees them."""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

from rag.errors import InputError
from rag.types import Image

_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}


class ImageCheck:
    """Accepts PNG, JPEG, WebP and GIF within limits of number, bytes and pixels.

    Raises InputError saying which limit, by the picture's place in the list.
    """

    def __init__(self, *, max_images: int, max_bytes: int, max_pixels: int) -> None:
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels

    def from_data_urls(self, urls: Sequence[str]) -> tuple[Image, ...]:
        self._check_number(len(urls))
        return tuple(self._checked(self._decoded(u, n), n) for n, u in enumerate(urls, 1))

    def from_files(self, paths: Sequence[Path]) -> tuple[Image, ...]:
        self._check_number(len(paths))
        images = []
        for number, path in enumerate(paths, 1):
            try:
                data = path.read_bytes()
            except OSError as error:
                raise InputError(f"Image {path} cannot be read: {error.strerror}.") from None
            images.append(self._checked(data, number))
        return tuple(images)

    def _check_number(self, number: int) -> None:
        if number > self._max_images:
            raise InputError(
                f"{number} images are too many: at most {self._max_images}.",
                "Send fewer, or raise RAG_MAX_IMAGES.",
            )

    def _decoded(self, url: str, number: int) -> bytes:
        head, _, body = url.partition(",")
        if not (head.startswith("data:image/") and head.endswith(";base64") and body):
            raise InputError(
                f"Image {number} is not a base64 data URL.",
                "Send it as data:image/png;base64,... ; links are not fetched.",
            )
        if len(body) > self._max_bytes * 4 // 3 + 4:
            raise self._too_big(number)
        try:
            return base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError):
            raise InputError(f"Image {number} is not valid base64.") from None

    def _too_big(self, number: int) -> InputError:
        return InputError(
            f"Image {number} is larger than {self._max_bytes / 1e6:g} MB.",
            "Make it smaller, or raise RAG_MAX_IMAGE_MB.",
        )

    def _checked(self, data: bytes, number: int) -> Image:
        from PIL import Image as Pillow
        from PIL import UnidentifiedImageError

        if len(data) > self._max_bytes:
            raise self._too_big(number)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Pillow.DecompressionBombWarning)
                with Pillow.open(io.BytesIO(data), formats=tuple(_TYPES)) as picture:
                    kind, pixels = picture.format or "", picture.width * picture.height
                    if pixels <= self._max_pixels:
                        picture.verify()
        except (Pillow.DecompressionBombWarning, Pillow.DecompressionBombError):
            raise self._too_many_pixels(number) from None
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
            raise InputError(
                f"Image {number} is not a picture that can be read.",
                "Send PNG, JPEG, WebP or GIF.",
            ) from None
        if pixels > self._max_pixels:
            raise self._too_many_pixels(number)
        return Image(_TYPES[kind], data)

    def _too_many_pixels(self, number: int) -> InputError:
        return InputError(
            f"Image {number} has more than {self._max_pixels / 1e6:g} million pixels.",
            "Make it smaller, or raise RAG_MAX_IMAGE_PIXELS.",
        )
