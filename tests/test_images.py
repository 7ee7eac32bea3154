"""Only pictures, only so many, only so big, come near a model."""

from __future__ import annotations

import base64
import io
import random
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageCms, PngImagePlugin

from rag.errors import InputError
from rag.images import ImageCheck, fitted
from rag.types import Image

CHECK = ImageCheck(max_images=2, max_bytes=50_000, max_pixels=10_000)
RED = (200, 30, 30)
TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}


def picture(kind: str = "PNG", size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Pillow.new("RGB", size, RED).save(buffer, kind)
    return buffer.getvalue()


def url(data: bytes, media: str = "image/png") -> str:
    return f"data:{media};base64,{base64.b64encode(data).decode()}"


def checked(data: bytes, check: ImageCheck | None = None) -> tuple[str, Pillow.Image]:
    """The media type and the decoded picture of what the check lets through."""
    (image,) = (check or CHECK).from_bytes([data])
    opened = Pillow.open(io.BytesIO(image.data))
    opened.load()
    assert TYPES[str(opened.format)] == image.media_type
    return image.media_type, opened


def saved(picture: Pillow.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(mode: str, size: tuple[int, int]) -> Pillow.Image:
    bands = len(Pillow.new(mode, (1, 1)).getbands())
    return Pillow.frombytes(mode, size, random.Random(0).randbytes(bands * size[0] * size[1]))


def near(found: Any, wanted: tuple[int, ...]) -> bool:
    return all(abs(one - other) < 20 for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("kind", TYPES)
def test_the_four_types_pass_whatever_they_say_they_are(kind: str) -> None:
    (image,) = CHECK.from_data_urls([url(picture(kind), "image/anything")])
    assert image.media_type == ("image/jpeg" if kind == "JPEG" else "image/png")
    assert near(Pillow.open(io.BytesIO(image.data)).convert("RGB").getpixel((3, 3)), RED)


def test_a_plain_png_passes_as_it_is() -> None:
    (image,) = CHECK.from_bytes([picture()])
    assert image.data == picture()


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


def test_a_file_is_read_only_as_far_as_it_may_be_long(tmp_path: Path) -> None:
    path = tmp_path / "big.png"
    path.write_bytes(picture() + b"\0" * 50_000)
    with pytest.raises(InputError, match="Image 1 is larger than"):
        CHECK.from_files([path])


# --- what comes out -----------------------------------------------------------------------------


def test_a_photograph_does_not_tell_where_it_was_taken() -> None:
    exif = Pillow.Exif()
    exif.get_ifd(0x8825)[2] = (48.0, 51.0, 29.6)  # GPS latitude
    exif[0x010F] = "a camera"
    data = saved(Pillow.new("RGB", (8, 8), RED), "JPEG", exif=exif, comment=b"at home", dpi=(7, 7))
    before = Pillow.open(io.BytesIO(data))
    assert before.getexif().get_ifd(0x8825)
    assert before.info["comment"]

    _, after = checked(data)

    assert not after.getexif()
    assert not set(after.info) & {"exif", "comment", "dpi", "xmp", "photoshop", "icc_profile"}


def test_a_png_does_not_tell_who_made_it() -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Author", "somebody")
    notes.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>")
    exif = Pillow.Exif()
    exif[0x010F] = "a camera"
    data = saved(Pillow.new("RGB", (8, 8)), "PNG", pnginfo=notes, exif=exif, dpi=(72, 72))
    assert Pillow.open(io.BytesIO(data)).info
    assert checked(data)[1].info == {}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "corner"),
    [(1, "left top"), (3, "right bottom"), (6, "right top"), (8, "left bottom")],
)
def test_a_picture_taken_sideways_stands_upright(kind: str, orientation: int, corner: str) -> None:
    picture = Pillow.new("RGB", (40, 24), "white")
    picture.paste(RED, (0, 0, 12, 12))
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    _, turned = checked(saved(picture, kind, exif=exif))

    assert turned.size == ((24, 40) if orientation in (6, 8) else (40, 24))
    width, height = turned.size
    place = (2 if "left" in corner else width - 3, 2 if "top" in corner else height - 3)
    assert near(turned.convert("RGB").getpixel(place), RED)


def test_damaged_exif_does_not_damage_the_picture() -> None:
    data = saved(Pillow.new("RGB", (8, 8), RED), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffjunk")
    assert near(checked(data)[1].getpixel((3, 3)), RED)


def test_several_jpegs_in_one_are_the_first_of_them() -> None:
    other = Pillow.new("RGB", (8, 8), "blue")
    data = saved(Pillow.new("RGB", (8, 8), RED), "MPO", save_all=True, append_images=[other])
    media, first = checked(data)
    assert media == "image/jpeg"
    assert near(first.getpixel((3, 3)), RED)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_its_first_frame(kind: str) -> None:
    frames = [Pillow.new("RGB", (8, 8), colour) for colour in ("blue", "green")]
    data = saved(Pillow.new("RGB", (8, 8), RED), kind, save_all=True, append_images=frames)
    assert getattr(Pillow.open(io.BytesIO(data)), "n_frames", 1) == 3
    _, first = checked(data)
    assert getattr(first, "n_frames", 1) == 1
    assert near(first.convert("RGB").getpixel((3, 3)), RED)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_kept(kind: str) -> None:
    picture = Pillow.new("RGBA", (8, 8), (*RED, 255))
    picture.putpixel((0, 0), (*RED, 0))
    media, kept = checked(saved(picture, kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert media == "image/png"
    assert kept.mode == "RGBA"
    assert kept.getpixel((0, 0))[3] == 0  # type: ignore[index]
    assert kept.getpixel((3, 3)) == (*RED, 255)


def test_a_transparent_colour_of_a_palette_is_kept() -> None:
    picture = Pillow.new("P", (8, 8), 1)
    picture.putpalette([0, 0, 0, *RED])
    picture.putpixel((0, 0), 0)
    _, kept = checked(saved(picture, "GIF", transparency=0))
    assert kept.mode == "RGBA"
    assert kept.getpixel((0, 0))[3] == 0  # type: ignore[index]
    assert kept.getpixel((3, 3)) == (*RED, 255)


def test_a_photograph_becomes_a_jpeg_and_a_drawing_a_png() -> None:
    check = ImageCheck(max_images=1, max_bytes=1_000_000, max_pixels=100_000)
    photograph = noise("RGB", (200, 200))
    solid = photograph.convert("RGBA")
    assert checked(saved(photograph, "PNG"), check)[0] == "image/jpeg"
    assert checked(saved(photograph, "WEBP", lossless=True), check)[0] == "image/jpeg"
    assert checked(saved(solid, "PNG"), check)[0] == "image/jpeg"
    assert checked(saved(photograph.quantize(64), "PNG"), check)[0] == "image/png"
    assert checked(saved(Pillow.new("RGB", (200, 200), RED), "JPEG"), check)[0] == "image/jpeg"


def test_sixteen_bits_become_eight_with_the_same_brightness() -> None:
    picture = Pillow.new("I;16", (3, 1))
    for place, value in enumerate((0, 32_768, 65_535)):
        picture.putpixel((place, 0), value)
    _, grey = checked(saved(picture, "PNG"))
    assert grey.mode == "L"
    assert [grey.getpixel((place, 0)) for place in range(3)] == [0, 128, 255]


def test_one_bit_and_grey_and_grey_with_transparency_are_kept_grey() -> None:
    assert checked(saved(Pillow.new("1", (8, 8), 1), "PNG"))[1].getpixel((3, 3)) == 255
    assert checked(saved(Pillow.new("L", (8, 8), 77), "PNG"))[1].getpixel((3, 3)) == 77
    assert checked(saved(Pillow.new("LA", (8, 8), (77, 9)), "PNG"))[1].getpixel((3, 3)) == (77, 9)
    assert checked(saved(Pillow.new("L", (8, 8), 77), "JPEG"))[1].mode == "L"


def test_print_colours_become_screen_colours() -> None:
    data = saved(Pillow.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")
    media, picture = checked(data)
    assert (media, picture.mode) == ("image/jpeg", "RGB")
    assert near(picture.getpixel((3, 3)), (255, 0, 0))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_of_another_profile_are_turned_into_srgb(mode: str) -> None:
    lab_profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    swapped = swapped_channels_profile()
    picture = Pillow.new(mode, (8, 8), RED if mode == "RGB" else (*RED, 100))
    _, converted = checked(saved(picture, "PNG", icc_profile=swapped))
    assert "icc_profile" not in converted.info
    assert near(converted.getpixel((3, 3)), (30, 200, 30) if mode == "RGB" else (30, 200, 30, 100))
    for nonsense in (b"not a profile", lab_profile):
        _, kept = checked(saved(picture, "PNG", icc_profile=nonsense))
        assert kept.getpixel((3, 3)) == picture.getpixel((3, 3))
        assert "icc_profile" not in kept.info


def swapped_channels_profile() -> bytes:
    """sRGB with red and green exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


def test_a_picture_that_grows_when_written_anew_is_written_smaller() -> None:
    check = ImageCheck(max_images=1, max_bytes=16_000, max_pixels=100_000)
    coarse = saved(noise("RGB", (150, 150)), "JPEG", quality=30)
    (image,) = check.from_bytes([coarse])
    assert image.media_type == "image/jpeg"
    assert len(image.data) <= 16_000


def test_a_picture_that_cannot_be_written_within_the_limit_is_refused() -> None:
    check = ImageCheck(max_images=1, max_bytes=9_000, max_pixels=100_000)
    hazy = noise("RGB", (100, 100))
    hazy.putalpha(100)
    data = saved(hazy, "WEBP", quality=1)
    assert len(data) < 9_000
    with pytest.raises(InputError, match=r"Image 1 is larger than 0\.009 MB"):
        check.from_bytes([data])


# --- the model's limit --------------------------------------------------------------------------


def test_a_picture_within_the_models_limit_is_the_same_object() -> None:
    (image,) = CHECK.from_bytes([picture(size=(100, 40))])
    assert fitted(image, 100) is image


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_longer_picture_is_made_smaller_in_proportion(kind: str) -> None:
    (image,) = CHECK.from_bytes([picture(kind, (40, 100))])
    smaller = fitted(image, 50)
    opened = Pillow.open(io.BytesIO(smaller.data))
    assert opened.size == (20, 50)
    assert opened.format == kind
    assert smaller.media_type == image.media_type
    assert near(opened.getpixel((10, 25)), RED)


def test_a_line_of_one_pixel_is_still_a_line_when_smaller() -> None:
    (image,) = CHECK.from_bytes([picture(size=(1000, 1))])
    assert Pillow.open(io.BytesIO(fitted(image, 64).data)).size == (64, 1)


def test_transparency_survives_being_made_smaller() -> None:
    image = Image("image/png", saved(Pillow.new("RGBA", (100, 100), (*RED, 100)), "PNG"))
    pixel = Pillow.open(io.BytesIO(fitted(image, 50).data)).getpixel((20, 20))
    assert near(pixel, (*RED, 100))


def test_what_is_no_picture_cannot_be_fitted() -> None:
    with pytest.raises(InputError, match="not a picture"):
        fitted(Image("image/png", b"x"), 100)


# --- whatever comes -----------------------------------------------------------------------------

MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P", "1"),
}


@settings(deadline=None, derandomize=True, database=None, max_examples=100)
@given(
    st.sampled_from([(kind, mode) for kind, modes in MODES.items() for mode in modes]),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.binary(min_size=1, max_size=64),
    st.integers(0, 9),
)
def test_what_is_accepted_is_a_bare_picture_within_the_limits(
    form: tuple[str, str], size: tuple[int, int], pixels: bytes, orientation: int
) -> None:
    kind, mode = form
    picture = Pillow.new(mode, size)
    picture.frombytes((pixels * (size[0] * size[1] * 4))[: len(picture.tobytes())])
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    data = saved(picture, kind, **({} if kind == "GIF" else {"exif": exif}))

    media, opened = checked(data)

    assert media in ("image/png", "image/jpeg")
    assert opened.mode in ("L", "LA", "RGB", "RGBA")
    assert sorted(opened.size) == sorted(size)
    assert not opened.getexif()
    assert set(opened.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    (again,) = CHECK.from_bytes([saved(opened, str(opened.format))])
    assert again.media_type == media


def with_notes() -> bytes:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    return saved(
        Pillow.new("RGB", (8, 8)), "JPEG", exif=exif, icc_profile=swapped_channels_profile()
    )


@settings(deadline=None, derandomize=True, database=None, max_examples=100)
@given(
    st.sampled_from([picture(kind) for kind in TYPES] + [with_notes()]),
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
        (image,) = CHECK.from_bytes([bytes(data[: len(data) - cut])])
        assert Pillow.open(io.BytesIO(image.data)).convert("RGB").size
