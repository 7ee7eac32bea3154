"""Only pictures, only so many, only so big, come near a model."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from rag.errors import InputError
from rag.images import ImageCheck

CHECK = ImageCheck(max_images=2, max_bytes=50_000, max_pixels=10_000)
TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}


def picture(kind: str = "PNG", size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Pillow.new("RGB", size, (200, 30, 30)).save(buffer, kind)
    return buffer.getvalue()


def url(data: bytes, media: str = "image/png") -> str:
    return f"data:{media};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize("kind", TYPES)
def test_the_four_types_pass_and_are_named_by_their_content(kind: str) -> None:
    data = picture(kind)
    (image,) = CHECK.from_data_urls([url(data, "image/anything")])
    assert (image.media_type, image.data) == (TYPES[kind], data)


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "ICO", "PPM"])
def test_other_types_are_refused(kind: str) -> None:
    with pytest.raises(InputError, match="not a picture"):
        CHECK.from_data_urls([url(picture(kind))])


def test_the_number_is_limited_before_anything_is_decoded() -> None:
    with pytest.raises(InputError, match="3 images are too many: at most 2"):
        CHECK.from_data_urls(["nonsense"] * 3)


def test_the_bytes_are_limited_before_they_are_decoded() -> None:
    with pytest.raises(InputError, match=r"Image 1 is larger than 0\.05 MB"):
        CHECK.from_data_urls(["data:image/png;base64," + "!" * 70_000])
    with pytest.raises(InputError, match="larger than"):
        CHECK.from_data_urls([url(picture() + b"\0" * 50_000)])


def test_the_pixels_are_limited() -> None:
    CHECK.from_data_urls([url(picture(size=(100, 100)))])
    with pytest.raises(InputError, match=r"Image 2 has more than 0\.01 million pixels"):
        CHECK.from_data_urls([url(picture()), url(picture(size=(101, 100)))])


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
def test_a_bomb_is_refused_by_its_header_alone(side: int) -> None:
    def part(name: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = part(b"IDAT", zlib.compress(b"\0" * 100))
    bomb = b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + rows + part(b"IEND", b"")
    with pytest.raises(InputError, match="pixels"):
        CHECK.from_data_urls([url(bomb)])


@pytest.mark.parametrize(
    "bad",
    [
        "https://example.org/a.png",
        "data:image/png;base64,",
        "data:image/png,abc",
        "data:text/plain;base64,aGk=",
        "file:///etc/passwd",
        "",
    ],
)
def test_anything_but_a_base64_data_url_is_refused(bad: str) -> None:
    with pytest.raises(InputError, match="not a base64 data URL"):
        CHECK.from_data_urls([bad])


@pytest.mark.parametrize("body", ["!!!!", "abc", "aGk=aGk=x", "图"])
def test_broken_base64_is_refused(body: str) -> None:
    with pytest.raises(InputError, match="Image 1 is not valid base64"):
        CHECK.from_data_urls([f"data:image/png;base64,{body}"])


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", picture()[:-20]])
def test_a_file_that_is_no_whole_picture_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(InputError, match="Image 1 is not a picture"):
        CHECK.from_files([path])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing-here"):
        CHECK.from_files([tmp_path / "nothing-here.png"])


def test_an_image_is_not_printed_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(picture())
    (image,) = CHECK.from_files([path])
    assert "PNG" not in repr(image)


@settings(deadline=None, derandomize=True, database=None, max_examples=100)
@given(
    st.sampled_from([picture(kind) for kind in TYPES]),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 60),
)
def test_a_mangled_picture_is_accepted_or_refused_but_never_a_crash(
    whole: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(whole)
    for place, value in changes:
        data[place % len(data)] = value
    with suppress(InputError):
        CHECK.from_data_urls([url(bytes(data[: len(data) - cut]))])
