"""A screenshot's text is read, by models that are already here."""

from __future__ import annotations

import importlib.machinery
import io
import logging
import socket
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from rag import ocr
from rag.errors import ConfigError, InputError
from rag.ocr import Ocr
from rag.types import Image

CHINESE = Path("/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc")
ERROR = (
    "Traceback (most recent call last):",
    'File "app.py", line 42, in connect',
    "ConnectionRefusedError: [Errno 111]",
)


def screenshot(
    *lines: str,
    size: tuple[int, int] = (640, 200),
    mode: str = "RGB",
    back: object = "white",
    ink: object = "black",
    font: Path | None = None,
) -> Image:
    picture = Pillow.new(mode, size, back)  # type: ignore[arg-type]
    letters = ImageFont.truetype(font, 28) if font else ImageFont.load_default(size=28)
    for number, line in enumerate(lines):
        ImageDraw.Draw(picture).text((20, 15 + 50 * number), line, fill=ink, font=letters)  # type: ignore[arg-type]
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return Image("image/png", buffer.getvalue())


# --- without the extra --------------------------------------------------------------------------


def test_without_the_extra_the_install_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr, "find_spec", lambda name: None)
    assert not Ocr.available()
    with pytest.raises(ConfigError, match=r"pip install 'rag-server\[ocr\]'"):
        Ocr()


def test_half_the_extra_is_not_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.machinery.ModuleSpec("rapidocr", None)
    monkeypatch.setattr(ocr, "find_spec", lambda name: spec if name == "rapidocr" else None)
    assert not Ocr.available()


def test_to_ask_whether_it_is_there_loads_nothing() -> None:
    code = """
        import sys
        from rag.ocr import Ocr
        Ocr.available()
        assert not {"rapidocr", "cv2", "numpy", "PIL"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


@pytest.mark.parametrize("size", [(30, 20_000), (20_000, 30), (1, 1), (5_000, 1)])
def test_a_slender_picture_is_not_enlarged_without_end(size: tuple[int, int]) -> None:
    prepared, _ = ocr._prepared(ocr._opened(screenshot(size=size)))
    assert max(prepared.size) <= 2000
    assert max(prepared.size) <= 3 * min(prepared.size)


# --- with it ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader() -> Ocr:
    return Ocr()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.slow
@pytest.mark.ocr
class TestRead:
    def test_an_error_message_is_read_offline_line_by_line_and_in_silence(
        self,
        no_network: None,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            reader = Ocr()  # loads its models without the network, too
            assert reader.text(screenshot(*ERROR)).split("\n") == list(ERROR)
            assert reader.text(screenshot()) == ""
        assert capfd.readouterr() == ("", "")
        assert not [r for r in caplog.records if r.levelno >= logging.INFO]

    @pytest.mark.parametrize(
        ("mode", "back", "ink"),
        [
            ("RGB", "#1e1e1e", "#dddddd"),
            ("L", 255, 0),
            ("RGBA", (0, 0, 0, 0), "black"),
            ("RGBA", (255, 255, 255, 0), "white"),
            ("LA", (0, 0), (0, 255)),
        ],
    )
    def test_dark_and_grey_and_transparent_pictures_are_read(
        self, reader: Ocr, mode: str, back: object, ink: object
    ) -> None:
        image = screenshot("Segmentation fault", mode=mode, back=back, ink=ink)
        assert reader.text(image) == "Segmentation fault"

    @pytest.mark.parametrize("size", [(2000, 40), (60, 2000), (1, 1), (5000, 2)])
    def test_a_strange_shape_is_no_failure(self, reader: Ocr, size: tuple[int, int]) -> None:
        assert isinstance(reader.text(screenshot("error", size=size)), str)

    def test_a_banner_is_read(self, reader: Ocr) -> None:
        image = screenshot("linker command failed with exit code 1", size=(1900, 60))
        assert reader.text(image) == "linker command failed with exit code 1"

    def test_lines_it_is_not_sure_of_are_left_out(self) -> None:
        assert Ocr(min_confidence=1.1).text(screenshot(*ERROR)) == ""

    def test_the_text_is_cut(self) -> None:
        assert Ocr(max_chars=9).text(screenshot(*ERROR)) == "Traceback"

    def test_what_is_no_picture_is_told(self, reader: Ocr) -> None:
        with pytest.raises(InputError, match="not a picture"):
            reader.text(Image("image/png", b"x"))

    def test_threads_do_not_mix_their_pictures(self, reader: Ocr) -> None:
        words = ["alpha seven", "bravo eight", "delta nine", "gamma ten"]
        with ThreadPoolExecutor(4) as pool:
            images = [screenshot(word, size=(320, 120)) for word in words]
            assert list(pool.map(reader.text, images)) == words

    def test_chinese_is_read(self, reader: Ocr) -> None:
        lines = ["数据库连接失败", "请检查网络设置后重试"]
        assert reader.text(screenshot(*lines, font=CHINESE)).split("\n") == lines
