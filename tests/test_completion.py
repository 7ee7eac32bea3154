"""A partial file as a prompt that fits, and the model's code without its fence."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rag.prompt import FenceStripper, Presets, build_completion, clean_completion
from rag.prompt.fit import head, tail
from rag.specs import Example, PresetSpec
from rag.text import estimate_tokens
from rag.types import Chunk, Hit

FAST = settings(deadline=None, derandomize=True, database=None, max_examples=150)
CODE = st.text(st.sampled_from("ab 中\n(=`"), max_size=3000)


def hit(text: str) -> Hit:
    chunk = Chunk(document_id="d", ordinal=0, start=0, end=len(text), text=text, context="API")
    return Hit(
        chunk=chunk, document="a.md", title="T", score=0.5, dense=0.5, keyword=1.0, via="both"
    )


def lines(word: str, count: int) -> str:
    return "".join(f"{word}{n} = {n}\n" for n in range(count))


@FAST
@given(CODE, CODE, st.lists(st.text(max_size=600).map(hit), max_size=4), st.integers(900, 3000))
def test_a_completion_prompt_never_exceeds_its_budget(
    prefix: str, suffix: str, hits: list[Hit], budget: int
) -> None:
    messages = build_completion(prefix, suffix, hits, budget=budget, filename="a.py")
    assert [m.role for m in messages][::3] == ["system", "user"]
    assert sum(estimate_tokens(m.text) for m in messages) <= budget


@FAST
@given(st.text(st.sampled_from("ab中 "), max_size=300), st.integers(-3, 200))
def test_a_text_is_cut_to_as_much_as_fits_and_no_less(text: str, limit: int) -> None:
    first, last = head(text, limit), tail(text, limit)
    assert text.startswith(first)
    assert text.endswith(last)
    assert estimate_tokens(first) <= max(limit, 0)
    assert estimate_tokens(last) <= max(limit, 0)
    if len(first) < len(text):
        assert estimate_tokens(text[: len(first) + 1]) > limit
    if len(last) < len(text):
        assert estimate_tokens(text[len(text) - len(last) - 1 :]) > limit


def test_a_file_that_fits_is_sent_whole_with_the_cursor_in_between() -> None:
    prefix, suffix = "def f(x):\n    return ", "\n\nprint(f(1))\n"
    asked = build_completion(
        prefix, suffix, [], budget=2000, filename="a\nb.py", code_language="python"
    )[-1].text
    assert f"<before>\n{prefix}</before>\n<after>\n{suffix}</after>" in asked
    assert asked.startswith("File: a b.py\nLanguage: python\n")


def test_of_a_long_file_whole_lines_next_to_the_cursor_are_kept() -> None:
    prefix, suffix = lines("before", 900) + "x = ", "\n" + lines("after", 900)
    asked = build_completion(prefix, suffix, [], budget=2000)[-1].text
    before = asked.partition("<before>\n")[2].partition("</before>")[0]
    after = asked.partition("<after>\n")[2].partition("</after>")[0]
    assert prefix.endswith("\n" + before)
    assert suffix.startswith(after)
    assert after.endswith("\n")
    assert before.startswith("before")
    assert len(before) > 2 * len(after) > 500


def test_room_the_beginning_does_not_need_goes_to_the_end() -> None:
    suffix = "\n" + lines("after", 300)
    asked = build_completion("x = ", suffix, [], budget=2500)[-1].text
    assert suffix in asked


def test_hits_are_sources_that_leave_most_of_the_room_to_the_file() -> None:
    prefix = lines("before", 900)
    system, *_, asked = build_completion(prefix, "", [hit("open(path)" * 500)], budget=3000)
    assert '<source n="1" document="a.md">' in system.text
    sources = system.text.partition("\n<sources>\n")[2]
    assert 200 < estimate_tokens(sources) < estimate_tokens(asked.text)


def test_examples_are_shown_as_turns_as_far_as_there_is_room() -> None:
    spec = PresetSpec(
        examples=tuple(Example(question="q" * n, answer="a") for n in (100, 100, 9000))
    )
    preset = Presets({"code_completion": spec}).get("code_completion")
    messages = build_completion("x", "", [], budget=3000, preset=preset)
    assert [m.role for m in messages] == ["system", *["user", "assistant"] * 2, "user"]
    assert messages[1].text.startswith("q" * 100)
    assert messages[2].text == "a"


def test_without_hits_no_sources_are_shown() -> None:
    assert "<sources>\n" not in build_completion("x", "", [], budget=2000)[0].text


def test_nothing_asks_for_marks_or_a_refusal() -> None:
    system = build_completion("x", "", [hit("y")], budget=2000)[0].text
    assert "[1]" not in system
    assert "do not hold an answer" not in system


FENCED = st.tuples(
    st.text(st.sampled_from("\n "), max_size=3),
    st.sampled_from(["```", "````"]),
    st.sampled_from(["", "python", " c++"]),
    st.text(st.sampled_from("ab \n(`"), max_size=40),
)


def given_out(text: str, cuts: list[int]) -> str:
    stripper = FenceStripper()
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    starts = [0, *ends[:-1]]
    pieces = [stripper.feed(text[a:b]) for a, b in zip(starts, ends, strict=True)]
    return "".join(pieces) + stripper.finish()


@FAST
@given(
    st.text(st.sampled_from("`\n a"), max_size=30)
    | FENCED.map(lambda f: f"{f[0]}{f[1]}{f[2]}\n{f[3]}"),
    st.lists(st.integers(0, 60), max_size=30),
)  # fmt: skip
def test_how_a_stream_is_cut_makes_no_difference(text: str, cuts: list[int]) -> None:
    assert given_out(text, cuts) == clean_completion(text)


@FAST
@given(FENCED)
def test_a_fence_round_the_code_is_taken_off(case: tuple[str, str, str, str]) -> None:
    space, fence, word, drawn = case
    code = drawn.replace("`", "'")
    assert clean_completion(f"{space}{fence}{word}\n{code}\n{fence}\n") == code
    assert clean_completion(f"{space}{fence}{word}\n{code}\n{fence}") == code
    assert clean_completion(f"{fence}{word}\n{code}\n{fence}\nThis code does it.") == code


@FAST
@given(st.text(st.sampled_from("ab \n(`"), max_size=60))
def test_text_without_an_opening_fence_is_left_as_it_is(text: str) -> None:
    if not text.lstrip().startswith("```"):
        assert clean_completion(text) == text


def test_code_streams_as_it_comes() -> None:
    stripper = FenceStripper()
    assert stripper.feed("```py") == ""
    assert stripper.feed("thon\nx =") == "x ="
    assert stripper.feed(" 1\n") == " 1"
    assert stripper.feed("y = 2") == "\ny = 2"
    assert stripper.feed("\n``") == ""
    assert stripper.feed("`\nDone: ") == ""
    assert stripper.feed("as you see") == ""
    assert stripper.finish() == ""


def test_a_fence_that_is_never_closed_loses_no_code() -> None:
    assert clean_completion("```python\nx = 1\n") == "x = 1\n"
    assert clean_completion("```\nif a:\n    pass") == "if a:\n    pass"


def test_an_empty_fence_is_empty() -> None:
    assert clean_completion("```python\n```") == ""
    assert clean_completion("```python") == ""
