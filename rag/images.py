"""Pictures that come with a question: checked, then written anew with nothing but their pixels,
before a model, or a bill, sees them."""

from __future__ import annotations

import base64
import binascii
import io
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rag.errors import InputError
from rag.types import Image

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_PNG, _JPEG = "image/png", "image/jpeg"
_JPEG_QUALITIES = (90, 75, 50)  # the next one when a picture has become too many bytes
_JPEG_SIDE = 65_500  # libjpeg's limit
_DRAWN_COLOURS = 16_384  # a screenshot has fewer, a photograph of a megapixel some 100,000

_decoding = threading.Lock()
"""One picture at a time, in all of the process: a small file may need a gigabyte to decode, and
`warnings.catch_warnings` is for one thread."""


class ImageCheck:
    """Accepts PNG, JPEG, WebP and GIF within limits of number, bytes and pixels.

    What comes out is PNG or JPEG, upright, without metadata (EXIF with its places, comments, colour
    profiles: colours are turned into sRGB), the first frame of an animation. Drawings, screenshots
    and whatever is partly transparent become PNG, photographs JPEG; a JPEG stays one. Bytes and
    pixels stay within the limits.

    Raises InputError saying which limit, by the picture's place in the list.
    """

    def __init__(self, *, max_images: int, max_bytes: int, max_pixels: int) -> None:
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels

    def from_data_urls(self, urls: Sequence[str]) -> tuple[Image, ...]:
        self._check_number(len(urls))
        return tuple(self._checked(self._decoded(u, n), n) for n, u in enumerate(urls, 1))

    def from_bytes(self, pictures: Sequence[bytes]) -> tuple[Image, ...]:
        """Of the contents of image files."""
        self._check_number(len(pictures))
        return tuple(self._checked(data, number) for number, data in enumerate(pictures, 1))

    def from_files(self, paths: Sequence[Path]) -> tuple[Image, ...]:
        self._check_number(len(paths))
        return tuple(self._checked(self._read(path), n) for n, path in enumerate(paths, 1))

    def _check_number(self, number: int) -> None:
        if number > self._max_images:
            raise InputError(
                f"{number} images are too many: at most {self._max_images}.",
                "Send fewer, or raise RAG_MAX_IMAGES.",
            )

    def _read(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                return file.read(self._max_bytes + 1)  # one more shows that it is too big
        except OSError as error:
            raise InputError(f"Image {path} cannot be read: {error.strerror}.") from None

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
        if len(data) > self._max_bytes:
            raise self._too_big(number)
        with _untrusted(f"Image {number}"):
            if self._pixels(data) > self._max_pixels:
                raise InputError(
                    f"Image {number} has more than {self._max_pixels / 1e6:g} million pixels.",
                    "Make it smaller, or raise RAG_MAX_IMAGE_PIXELS.",
                )
            image = _rewritten(data, self._max_bytes)
        if len(image.data) > self._max_bytes:
            raise self._too_big(number)
        return image

    def _pixels(self, data: bytes) -> int:
        """By the header: nothing is decoded. Raises what Pillow raises."""
        from PIL import Image as Pillow

        try:
            with Pillow.open(io.BytesIO(data), formats=_FORMATS) as picture:
                pixels: int = picture.width * picture.height
                if pixels <= self._max_pixels:
                    picture.verify()
                return pixels
        except Pillow.DecompressionBombError:
            return self._max_pixels + 1


def fitted(image: Image, max_side: int) -> Image:
    """`image` itself, or a smaller one if a side is longer than `max_side` pixels.

    The proportions are kept, and so is the type. Raises InputError if it cannot be decoded.
    """
    from PIL import Image as Pillow

    with _untrusted("An image"), Pillow.open(io.BytesIO(image.data), formats=_FORMATS) as picture:
        if max(picture.size) <= max_side:
            return image
        smaller = _plain(picture)
        smaller.thumbnail((max_side, max_side), Pillow.Resampling.LANCZOS)
        jpeg = image.media_type == _JPEG and not smaller.has_transparency_data
        return _as_jpeg(smaller, _JPEG_QUALITIES[0]) if jpeg else _as_png(smaller)


@contextmanager
def _untrusted(name: str) -> Iterator[None]:
    with _decoding, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except InputError:
            raise
        except Exception:  # noqa: BLE001 - what Pillow raises for damaged files has no end
            raise InputError(
                f"{name} is not a picture that can be read.", "Send PNG, JPEG, WebP or GIF."
            ) from None


def _rewritten(data: bytes, max_bytes: int) -> Image:
    """Of the forms a picture may take, the first within `max_bytes`; the last if there is none."""
    from PIL import Image as Pillow

    with Pillow.open(io.BytesIO(data), formats=_FORMATS) as source:
        was_jpeg = source.format in ("JPEG", "MPO")  # MPO: several JPEGs in one, of some phones
        picture = _plain(source)
    solid = not picture.has_transparency_data and max(picture.size) <= _JPEG_SIDE
    forms = [] if solid and (was_jpeg or not _is_drawn(picture)) else [_as_png(picture)]
    for quality in _JPEG_QUALITIES if solid else ():
        if forms and len(forms[-1].data) <= max_bytes:
            break
        forms.append(_as_jpeg(picture, quality))
    return forms[-1]


def _plain(source: Picture) -> Picture:
    """The pixels of the first frame, upright, in sRGB, 8 bits a channel, and nothing else.

    The mode is L, LA, RGB or RGBA, the latter two only if something is transparent.
    """
    source.load()
    picture = _in_srgb(_upright(source))
    if picture.mode == "I;16":  # converted as it is, all but the darkest would be white
        picture = picture.point(lambda value: value / 256).convert("L")
        picture.info = {}  # a colour that counts as transparent is one of the 16-bit colours
    grey = picture.mode in ("1", "L", "LA")
    mode = "L" if grey else "RGB"
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if picture.getchannel("A").getextrema() != (255, 255):
            mode = "LA" if grey else "RGBA"
    picture = picture.convert(mode)
    picture.info = {}
    return picture


def _upright(picture: Picture) -> Picture:
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # noqa: BLE001 - damaged notes beside a picture do not damage its pixels
        return picture


def _in_srgb(picture: Picture) -> Picture:
    from PIL import ImageCms

    profile = picture.info.get("icc_profile")
    if not profile or picture.mode not in ("RGB", "RGBA", "CMYK"):
        return picture
    try:
        converted = ImageCms.profileToProfile(
            picture,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            outputMode="RGBA" if picture.mode == "RGBA" else "RGB",
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # a profile that is not one
        return picture
    assert converted is not None  # only with inPlace
    return converted


def _is_drawn(picture: Picture) -> bool:
    return picture.getcolors(_DRAWN_COLOURS) is not None


def _as_png(picture: Picture) -> Image:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return Image(_PNG, buffer.getvalue())


def _as_jpeg(picture: Picture, quality: int) -> Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image(_JPEG, buffer.getvalue())
