"""Terms, sentences, language and budgets: what all rooms agree on about text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.text import estimate_tokens, language, question_terms, sentences, terms

FAST = settings(deadline=None, derandomize=True, database=None, max_examples=150)
MIXED = st.text(
    st.sampled_from("ab zA.!?…。！？；，\n\t\u3000\"')」员工请假3.5é\u0301"), max_size=80
)


def test_chinese_text_becomes_characters_and_pairs_of_neighbours() -> None:
    assert terms("请病假") == ["请", "病", "假", "请病", "病假"]


def test_a_pair_never_spans_punctuation() -> None:
    assert "假，" not in "".join(terms("请假，报销"))
    assert "假报" not in terms("请假，报销")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("policies", "policy"),
        ("Expenses", "expense"),
        ("running", "runs"),
        ("café", "cafe"),
        ("naïve", "naive"),
        ("ＡＰＩ１２３", "api123"),
        ("employee's", "employee"),
        ("employee’s", "employee"),
        ("STRASSE", "strasse"),
    ],
)
def test_spellings_of_one_word_are_one_term(one: str, other: str) -> None:
    assert terms(one) == terms(other)


def test_identifiers_are_found_by_their_parts() -> None:
    assert terms("max_file_mb=100") == [*terms("max"), *terms("file"), "mb", "100"]
    assert terms("HTTP-404") == ["http", "404"]
    assert terms("E1024") == ["e1024"]


def test_languages_meet_without_a_space() -> None:
    assert terms("使用API密钥")[-4:] == ["api", "密", "钥", "密钥"]


def test_japanese_and_korean_are_cut_like_chinese() -> None:
    assert "データ"[:2] in terms("データ")
    assert "회사" in terms("회사")


def test_a_question_is_asked_by_its_telling_terms() -> None:
    asked = question_terms("What is the annual leave policy?")
    assert asked == [*terms("annual"), *terms("leave"), *terms("policy")]
    asked = question_terms("年假是多少天？")
    assert {"年", "假", "年假", "天"} <= set(asked)
    assert not {"是", "多", "少", "多少"} & set(asked)


def test_a_question_of_nothing_but_function_words_keeps_them() -> None:
    assert question_terms("who are you") == terms("who are you")
    assert question_terms("什么") == ["什", "么", "什么"]


def test_a_term_is_asked_once() -> None:
    assert question_terms("leave leave Leaves") == terms("leave")


@FAST
@given(st.text(max_size=60))
def test_a_question_with_terms_never_loses_all_of_them(text: str) -> None:
    assert bool(question_terms(text)) == bool(terms(text))
    assert set(question_terms(text)) <= set(terms(text))
    assert not any(c.isspace() for term in terms(text) for c in term)


@FAST
@given(MIXED)
def test_sentences_cover_every_visible_character_once_and_in_order(text: str) -> None:
    covered: list[int] = []
    for start, end in sentences(text):
        assert text[start:end] == text[start:end].strip() != ""
        covered.extend(range(start, end))
    assert covered == sorted(set(covered))
    assert {i for i, c in enumerate(text) if not c.isspace()} <= set(covered)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("第一句。第二句！第三句？", ["第一句。", "第二句！", "第三句？"]),
        ("他说：“好。”然后走了。", ["他说：“好。”", "然后走了。"]),
        ("Costs 3.5 dollars. Next one! Last?", ["Costs 3.5 dollars.", "Next one!", "Last?"]),
        ("a line\nanother line", ["a line", "another line"]),
        ('He said "yes." Then left.', ['He said "yes."', "Then left."]),
        ("等等……还有", ["等等……", "还有"]),
        ("", []),
        (" \n ", []),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str, parts: list[str]) -> None:
    assert [text[s:e] for s, e in sentences(text)] == parts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("年假有多少天？", "zh"),
        ("How many days?", "en"),
        ("什么是 SLA", "zh"),
        ("What does 年假 mean in the handbook?", "en"),
        ("", "en"),
        ("123 ?!", "en"),
    ],
)
def test_the_language_is_that_of_the_reader(text: str, expected: str) -> None:
    assert language(text) == expected


@FAST
@given(st.text(min_size=1, max_size=200), st.text(max_size=50))
def test_an_estimate_is_never_zero_and_grows_with_the_text(text: str, more: str) -> None:
    assert 1 <= estimate_tokens(text) <= len(text)
    assert estimate_tokens(text + more) >= estimate_tokens(text)


def test_a_wide_character_counts_as_one_token() -> None:
    assert estimate_tokens("员工请假") == 4
    assert estimate_tokens("four") == 1
    assert estimate_tokens("") == 0
