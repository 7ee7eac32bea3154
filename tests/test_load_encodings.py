"""Bytes -> text in the encodings Chinese files come in."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import DamagedFileError
from rag.load import load

SIMPLIFIED = (
    "员工入职满一年可以享受年休假，具体天数按照工龄计算。",
    "会议室须提前一天预订，使用完毕后请关闭电源和空调。",
    "服务器每天凌晨两点自动备份，备份文件保留三十天。",
    "报销单应附发票原件，经部门负责人签字后交财务部。",
    "本产品保修期为两年，人为损坏不在保修范围之内！",
    "问：忘记密码怎么办？答：请联系信息技术部门重置。",
    "第一章 总则\n第一条 为了规范公司采购流程，制定本办法。",
    "API 调用超过每分钟 60 次会返回 429，请稍后重试。",
)
TRADITIONAL = (
    "員工到職滿一年可以享有特別休假，天數依照年資計算。",
    "會議室須提前一天預約，使用完畢後請關閉電源及冷氣。",
    "伺服器每天凌晨兩點自動備份，備份檔案保留三十天。",
    "報銷單應附發票正本，經部門主管簽名後交給財務部。",
    "本產品保固期為兩年，人為損壞不在保固範圍之內！",
    "問：忘記密碼怎麼辦？答：請聯絡資訊部門重新設定。",
    "使用者可以在設定頁面變更語言，變更後需要重新登入。",
)
WESTERN = (
    "Le café est fermé à Noël, où déjà l'été était très sec.",
    "Grüße aus München, die schöne Straße ist überfüllt.",
    "El niño comió piñas mañana por la mañana en España.",
    "Smörgåsbord på ön, räksmörgås och blåbärspaj på lördag.",
    "Valitettavasti tietää mihin siihen liittyvää lykkää sen.",
    "Operating temperature -30 to +70 °C, tolerance ±2 %.",
    "© 2024 Société Générale – “quoted” text… it’s £20.",
    "DSA (connu également sous le nom de DSS)",
)
CHINESE = (
    *((text, "gb18030") for text in SIMPLIFIED),
    *((text, "gbk") for text in SIMPLIFIED),
    *((text, "big5") for text in TRADITIONAL),
    *((text, "gb18030") for text in TRADITIONAL),
    *((text, "utf-16-le") for text in SIMPLIFIED + TRADITIONAL),
    *((text, "utf-16-be") for text in SIMPLIFIED + TRADITIONAL),
)


def decoded(data: bytes) -> str:
    return load(Path("a.txt"), data, max_bytes=2**24).text


@pytest.mark.parametrize(("text", "encoding"), CHINESE)
def test_short_chinese_without_a_mark_is_read_right(text: str, encoding: str) -> None:
    assert decoded(text.encode(encoding)) == text


@given(st.lists(st.sampled_from(SIMPLIFIED), min_size=1, max_size=30), st.sampled_from(["\n", " "]))
def test_any_amount_of_gbk_is_read_right(sentences: list[str], gap: str) -> None:
    text = gap.join(sentences)
    assert decoded(text.encode("gbk")) == text


@given(st.lists(st.sampled_from(TRADITIONAL), min_size=1, max_size=30), st.sampled_from(["\n", ""]))
def test_any_amount_of_big5_is_read_right(sentences: list[str], gap: str) -> None:
    text = gap.join(sentences)
    assert decoded(text.encode("big5")) == text


@given(st.integers(0, 60), st.integers(20, 60), st.sampled_from(["gbk", "utf-16-le", "utf-16-be"]))
def test_any_stretch_of_running_chinese_is_read_right(start: int, size: int, encoding: str) -> None:
    text = "".join(SIMPLIFIED)[start : start + size]
    assert decoded(text.encode(encoding)) == text


@pytest.mark.parametrize("text", WESTERN)
@pytest.mark.parametrize("encoding", ["cp1252", "utf-8", "utf-16-le"])
def test_western_text_does_not_turn_into_chinese(text: str, encoding: str) -> None:
    assert decoded(text.encode(encoding)) == text


def test_latin_1_bytes_that_windows_leaves_undefined_are_kept() -> None:
    assert decoded("é \x81 à".encode("latin-1")) == "é \x81 à"


ANY = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff"), min_size=1
)


@given(
    ANY.filter(str.strip),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
)
def test_any_text_in_utf_8_or_with_a_mark_is_read_right(text: str, encoding: str) -> None:
    assert decoded(text.encode(encoding)) == text


def test_ascii_in_utf_16_without_a_mark_is_read_right() -> None:
    for encoding in ("utf-16-le", "utf-16-be"):
        assert decoded("Hello, the price is 一百 yuan".encode(encoding)).startswith(
            "Hello, the price"
        )


def test_a_character_cut_in_two_costs_only_itself() -> None:
    data = "".join(SIMPLIFIED).encode()[:-1]
    assert decoded(data) == "".join(SIMPLIFIED)[:-1] + "\ufffd"


def test_a_long_file_is_judged_by_its_beginning_wherever_that_is_cut() -> None:
    for lead in ("", "a"):
        text = lead + "年休假的天数按照工龄计算。" * 8000
        assert decoded(text.encode("gb18030")) == text


def test_lone_surrogates_become_replacement_characters() -> None:
    text = decoded(codecs.BOM_UTF16_LE + "甲\ud800乙".encode("utf-16-le", "surrogatepass"))
    assert text.encode() == "甲\ufffd乙".encode()


def test_binary_data_is_refused() -> None:
    with pytest.raises(DamagedFileError, match="binary"):
        decoded(bytes(range(32)) * 40)
