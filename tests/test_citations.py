"""Marks in a streamed answer: found however it is cut, valid, and tied to what supports them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rag.citations import CitationParser, cite, supporting
from rag.types import Chunk, Citation, Cited, Hit, Token

FAST = settings(deadline=None, derandomize=True, database=None, max_examples=200)

LEAVE = "员工每年有十五天年假。病假需要医院证明。年假最多顺延 5 天到次年三月。"
COSTS = "Hotels cost up to 800 CNY a night. Meals cost up to 120 CNY a day. Keep the receipts."


def hit(text: str, *, start: int = 100) -> Hit:
    chunk = Chunk(
        document_id="d",
        ordinal=0,
        start=start,
        end=start + len(text),
        text=text,
        heading=("H",),
        page=2,
    )
    return Hit(
        chunk=chunk,
        document="a.md",
        title="T",
        score=0.7,
        dense=0.5,
        keyword=1.0,
        via="both",
    )


SOURCES = [hit(LEAVE), hit(COSTS), hit("第三份资料。", start=0)]


def parsed(*pieces: str) -> tuple[str, list[Citation], CitationParser]:
    parser = CitationParser(dict(enumerate(SOURCES, 1)))
    events = [e for piece in pieces for e in parser.feed(piece)] + list(parser.finish())
    text = "".join(e.text for e in events if isinstance(e, Token))
    return text, [e.citation for e in events if isinstance(e, Cited)], parser


REPLIES = st.lists(
    st.sampled_from(
        [
            *"[]【】［］^0123459 ,，-–~`\n。a",
            *("[1]", "[2][3]", "[9]", "[1, 2", "[1-3]", "[^2]", "```", "`x`"),
            *("年假十五天", "800 CNY", " " * 30, "1, " * 12),
        ]
    ),
    max_size=25,
).map("".join)


@FAST
@given(REPLIES, st.lists(st.integers(0, 200), max_size=12))
@example("```python\na[1]\n```", [3])
@example("[1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2]", [28])
@example("`\n[1]", [1])
@example("[1\n]", [2])
def test_a_reply_means_the_same_however_it_is_cut(reply: str, cuts: list[int]) -> None:
    places = sorted({min(c, len(reply)) for c in cuts} | {0, len(reply)})
    pieces = [reply[a:b] for a, b in pairwise(places)]
    text, cited, _ = parsed(*pieces)
    whole_text, whole_cited, _ = parsed(reply)
    assert text == whole_text
    assert [(c.n, c.quote) for c in cited] == [(c.n, c.quote) for c in whole_cited]


@FAST
@given(REPLIES)
def test_every_quote_is_its_source_at_the_offsets(reply: str) -> None:
    for citation in parsed(*reply)[1]:
        chunk = SOURCES[citation.n - 1].chunk
        assert chunk.start <= citation.start < citation.end <= chunk.end
        assert (
            citation.quote == chunk.text[citation.start - chunk.start : citation.end - chunk.start]
        )


@FAST
@given(REPLIES)
def test_the_parsers_text_is_what_it_told(reply: str) -> None:
    text, cited, parser = parsed(*reply)
    assert parser.text == text
    assert set(parser.citations) == set(cited)


@pytest.mark.parametrize(
    ("written", "numbers", "shown"),
    [
        ("[1]", [1], "[1]"),
        ("[1][3]", [1, 3], "[1][3]"),
        ("[1,2]", [1, 2], "[1][2]"),
        ("[1，2、3]", [1, 2, 3], "[1][2][3]"),
        ("[1-3]", [1, 2, 3], "[1][2][3]"),
        ("[1–2; 3]", [1, 2, 3], "[1][2][3]"),
        ("【1】", [1], "[1]"),
        ("［2］", [2], "[2]"),
        ("[^1]", [1], "[1]"),
        ("[ 2 ]", [2], "[2]"),
        ("[2, 2]", [2], "[2]"),
        ("[9]", [], ""),
        ("[0]", [], ""),
        ("[1, 9]", [1], "[1]"),
        ("[2-99]", [2, 3], "[2][3]"),
        ("[3-1]", [], ""),
        ("[2024]", [], "[2024]"),
        ("[see]", [], "[see]"),
        ("[]", [], "[]"),
        ("[1", [], "[1"),
    ],
)
def test_marks_are_read_in_all_their_forms(written: str, numbers: list[int], shown: str) -> None:
    text, cited, _ = parsed(f"年假十五天{written}。")
    assert [c.n for c in cited] == numbers
    assert text == f"年假十五天{shown}。"


@pytest.mark.parametrize(
    "code",
    [
        "`a[1]`",
        "```\nx = a[1]\n```",
        "```py\na[1]\n`b[2]`\n```",
        "``a[1] ` b[2]``",
        "````\n```\na[9]\n```\n````",
        "```\nnever closed [1]",
    ],
)
def test_nothing_inside_code_is_a_mark(code: str) -> None:
    for pieces in ([code], list(code)):
        text, cited, _ = parsed(*pieces)
        assert (text, cited) == (code, [])


def test_a_mark_after_code_counts_again() -> None:
    assert [c.n for c in parsed("`a[1]` 年假[1]")[1]] == [1]
    assert [c.n for c in parsed("```\na[1]\n```\n年假[1]")[1]] == [1]
    assert [c.n for c in parsed("a stray ` tick\n年假[2]")[1]] == [2]


def test_text_passes_at_once_and_only_an_unfinished_mark_waits() -> None:
    parser = CitationParser(dict(enumerate(SOURCES, 1)))

    def told(piece: str) -> str:
        return "".join(e.text for e in parser.feed(piece) if isinstance(e, Token))

    assert told("年假十五天") == "年假十五天"
    assert told("，见 [") == "，见 "
    assert told("1") == ""
    assert told("]。下") == "[1]。下"
    assert told("[see") == "[see"
    assert told("[" + "1," * 40) == "[" + "1," * 40


def test_a_mark_at_the_very_end_is_told_by_finish() -> None:
    parser = CitationParser(dict(enumerate(SOURCES, 1)))
    assert list(parser.feed("年假 [1")) == [Token("年假 ")]
    assert list(parser.finish()) == [Token("[1")]


def test_the_quote_is_the_sentence_that_supports_the_statement() -> None:
    _, cited, _ = parsed("每年有十五天年假[1]。病假需要医院证明[1]。餐费每天最多 120 CNY [2].")
    assert [c.quote for c in cited] == [
        "员工每年有十五天年假。",
        "病假需要医院证明。",
        "Meals cost up to 120 CNY a day.",
    ]
    assert cited[2].start == 100 + COSTS.index("Meals")


@pytest.mark.parametrize(
    ("statement", "number"),
    [
        ("A night in a hotel costs up to 800 CNY", "800"),
        ("Cost is up to 120", "120"),
        ("年假最多顺延 5 天", "5"),
    ],
)
def test_the_quote_holds_the_number_of_the_statement(statement: str, number: str) -> None:
    source = next(s for s in SOURCES if number in s.chunk.text)
    assert number in cite(1, source, statement).quote


def test_a_statement_over_two_sentences_quotes_both() -> None:
    start, end = supporting("Hotels cost 800 CNY and meals 120 CNY", COSTS)
    assert COSTS[start:end] == (
        "Hotels cost up to 800 CNY a night. Meals cost up to 120 CNY a day."
    )


def test_where_no_sentence_stands_out_the_whole_passage_is_quoted() -> None:
    assert supporting("完全无关", COSTS) == (0, len(COSTS))
    assert supporting("", COSTS) == (0, len(COSTS))


def test_a_citation_says_where_its_quote_stands() -> None:
    (citation,) = parsed("十五天年假[1]")[1]
    assert (citation.document, citation.page, citation.heading) == ("a.md", 2, ("H",))
    assert citation.score == 0.7


def test_an_equal_quote_is_listed_once() -> None:
    _, cited, parser = parsed("十五天年假[1]。十五天年假[1]。")
    assert len(cited) == 2
    assert len(parser.citations) == 1
