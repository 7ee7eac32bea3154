"""Bytes -> text: byte order marks, UTF-8, then whichever decoding reads most like a language."""

from __future__ import annotations

import codecs
import re
from functools import cache
from typing import NamedTuple

from rag.errors import DamagedFileError
from rag.load.build import clean

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"\x84\x31\x95\x33", "gb18030"),
)
_CANDIDATES = ("gb18030", "cp950", "big5hkscs", "utf-16-le", "utf-16-be")
_SAMPLE_BYTES = 65_536  # even, so that it cuts no UTF-16 unit
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_MAX_CONTROL_SHARE = 0.05
_FEW = 3
_MAX_BROKEN_SHARE = 0.02
_SURE, _ENOUGH = 1.8, 4  # this weight for this many characters: accents never get there

# The characters seen most in Chinese, simplified and traditional; a decoding that is wrong hits
# them only by chance.
_FREQUENT = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年"
    "过发后作里用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理"
    "心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两"
    "高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表"
    "化老给世位次度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更"
    "别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指克许统区"
    "保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色路记南品住"
    "告类求据程北边死张该交规万取拉格望觉术领共确传师观清今切院让识候带导争运请填写使用系统文"
    "件名称编号日期单位申请审批员工公司年月日不得按照规定办理部门"
    "這個們來為國會說時對過發後裡種經麼學現當沒動還進樣開從實軍無與長機業將兩間問應戰向頭體"
    "見產話內給門東聲義認條氣題爾別變總電數報結務場計質資隊決馬書聽達強難權設統區類據邊張該"
    "規萬覺術領確傳師觀讓識帶導爭運請寫檔編號單員辦"
)
_PUNCTUATION = frozenset("，。、：；！？“”‘’「」『』（）《》〈〉【】—…·　０１２３４５６７８９％")


def decode(data: bytes, name: str) -> str:
    """The text of `data`: no byte order mark, newlines as "\\n", NUL and lone surrogates as U+FFFD.

    UTF-8 (up to a few broken bytes), UTF-16, GB18030 and Big5 are told apart; what is none of them
    is read as Windows-1252. Raises DamagedFileError for bytes that are no text at all.
    """
    text = _decoded(data)
    sample = text[:_SAMPLE_BYTES]
    if len(_CONTROL.findall(sample)) > max(_FEW, _MAX_CONTROL_SHARE * len(sample)):
        raise DamagedFileError(
            f"{name} is not text: it holds binary data.",
            "Give it the extension of what it is, or leave it out.",
        )
    return clean(text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n"))


def encoding_of(data: bytes) -> str:
    """The Python name of the encoding that `decode` would choose for bytes without a mark."""
    # A letter of ASCII in UTF-16 is that letter and a zero byte, which is UTF-8 as well.
    if encoding := _by_zero_bytes(data):
        return encoding
    if _is_utf8(data) or _mostly_utf8(data):
        return "utf-8"
    best = _best(data, _CANDIDATES)
    score = _score(data, best)
    if _looks_western(data):
        return best if score.foreign > _SURE and score.characters >= _ENOUGH else "cp1252"
    return best if score.foreign > 0 else "cp1252"


def _decoded(data: bytes) -> str:
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, errors="replace")
    encoding = encoding_of(data)
    if encoding == "utf-8" and b"\xed" in data and _is_utf8(data):
        # Some programs write a character beyond U+FFFF as two halves: CESU-8.
        text = data.decode("utf-8", errors="surrogatepass")
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if encoding != "cp1252":
        return data.decode(encoding, errors="replace")
    # Windows-1252 leaves five bytes undefined; browsers read those as Latin-1 does.
    return data.decode("latin-1").translate(_windows_1252())


@cache
def _windows_1252() -> dict[int, str]:
    pairs = ((byte, bytes([byte]).decode("cp1252", errors="ignore")) for byte in range(0x80, 0xA0))
    return {byte: character for byte, character in pairs if character}


def _by_zero_bytes(data: bytes) -> str:
    """UTF-16 with plenty of ASCII: nearly all zero bytes are on one side of the pairs (not all:
    一 has one on the other side). Empty if it is not that."""
    sample = data[:_SAMPLE_BYTES]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if len(data) % 2 or (even + odd) * 8 < len(sample) or min(even, odd) * 4 > max(even, odd):
        return ""
    return "utf-16-le" if odd > even else "utf-16-be"


def _is_utf8(data: bytes) -> bool:
    """Halves of surrogate pairs are let pass."""
    try:
        data.decode("utf-8", errors="surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def _mostly_utf8(data: bytes) -> bool:
    """UTF-8 with a few broken bytes: cut in the middle of a character, or pasted together."""
    sample = data[:_SAMPLE_BYTES]
    text = sample.decode("utf-8", errors="replace")
    sound = len(re.findall(r"[^\x00-\x7f\ufffd]", text))
    return sound > 0 and text.count("\ufffd") <= max(1, _MAX_BROKEN_SHARE * sound) and sound >= 10


def _looks_western(data: bytes) -> bool:
    """Whether most bytes beyond ASCII stand alone, with no control characters round them. In
    Chinese most come in pairs; in UTF-16 a third of the other half are control characters."""
    if re.search(rb"[\x00-\x08\x0e-\x1f]", data[:_SAMPLE_BYTES]):
        return False
    runs = re.findall(rb"[\x80-\xff]+", data[:_SAMPLE_BYTES])
    return sum(len(run) == 1 for run in runs) >= 0.5 * sum(map(len, runs))


def _best(data: bytes, candidates: tuple[str, ...]) -> str:
    return max(candidates, key=lambda encoding: _score(data, encoding).all)


class _Score(NamedTuple):
    """How much a decoding reads like a language: `all` for each byte, `foreign` for each of
    the `characters` beyond ASCII. Negative for noise."""

    all: float
    foreign: float
    characters: int


def _score(data: bytes, encoding: str) -> _Score:
    sample = data[:_SAMPLE_BYTES]
    whole = len(sample) == len(data)
    try:
        text = codecs.getincrementaldecoder(encoding)("strict").decode(sample, whole)
    except UnicodeDecodeError:
        return _Score(-9.0, -9.0, 0)
    foreign = [_weight(character) for character in text if not character.isascii()]
    ascii_ = sum(_weight(character) for character in text if character.isascii())
    return _Score(
        (sum(foreign) + ascii_) / max(1, len(sample)),
        sum(foreign) / max(1, len(foreign)),
        len(foreign),
    )


@cache
def _weight(character: str) -> float:
    """Of one character. A wrong reading of Chinese yields rare characters, kana and Hangul."""
    code = ord(character)
    if character in _FREQUENT:
        return 4.0
    if character in _PUNCTUATION:
        return 2.0
    if character in "\t\n\r" or 0x20 <= code < 0x7F:
        return 0.5
    if 0x4E00 <= code <= 0x9FFF:
        return 1.0 if _is_common(character) else -2.0
    if 0x3040 <= code <= 0x30FF:
        return 0.4
    if code < 0x20 or 0x7F <= code < 0xA0 or 0xD800 <= code <= 0xF8FF or code >= 0xFFF0:
        return -6.0
    return -1.0


def _is_common(character: str) -> bool:
    """In the first level of GB 2312 or of Big5: the few thousand characters in daily use."""
    for encoding, first, last in (("gb2312", 0xB0, 0xD7), ("big5", 0xA4, 0xC6)):
        encoded = character.encode(encoding, errors="ignore")
        if len(encoded) == 2 and first <= encoded[0] <= last:
            return True
    return False
