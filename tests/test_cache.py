"""Which questions are the same, what is kept of their answers, and how a replay looks."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.cache import AnswerCache, InMemory, answer_key, normalised
from rag.cache.coding import decoded_all, encoded_all, shape
from rag.records import CacheAsked
from rag.types import (
    Answer,
    AnswerEvent,
    Chunk,
    Citation,
    Cited,
    Failed,
    Finished,
    Held,
    Hit,
    Image,
    Message,
    Retried,
    Retrieved,
    Timings,
    Token,
    ToolUsed,
    Usage,
)

CHUNK = Chunk(document_id="d", ordinal=0, start=3, end=7, text="text", heading=("A", "B"), page=2)
HIT = Hit(chunk=CHUNK, document="a.md", title="A", score=0.9, dense=0.8, keyword=2.5, via="both")
CITATION = Citation(
    n=1,
    document_id="d",
    document="a.md",
    page=None,
    sheet="S",
    heading=("A",),
    quote="text",
    start=3,
    end=7,
    score=0.1 + 0.2,
)
FAILED = Failed("model_stream", "It broke.", "Ask again.", True)
RETRIED = Retried(model="a", next_model="b", code="model_busy", reason="Busy.", wait=1.0)
USED = ToolUsed(name="calculate", arguments="{}", result="2", failed=False, seconds=0.1)


def finished(text: str, *, cost: float | None = 0.25, refused: bool = False) -> Finished:
    return Finished(
        Answer(
            text=text,
            refused=refused,
            citations=(CITATION,),
            model="m",
            usage=Usage(10, 5, cost=cost),
            timings=Timings(retrieved=1.0, first_token=2.0, total=3.0),
            data={"a": [1, None]},
        )
    )


class Asked:
    """An answer in pieces. `gates[i]` lets piece i out, where there are gates; else all flow."""

    def __init__(self, *events: AnswerEvent | Exception, gated: bool = False) -> None:
        self.events = events
        self.gates = [asyncio.Event() for _ in events]
        self.calls = 0
        self.closed = 0
        if not gated:
            self.open()

    def open(self) -> None:
        for gate in self.gates:
            gate.set()

    async def __call__(self) -> AsyncGenerator[AnswerEvent]:
        self.calls += 1
        try:
            for event, gate in zip(self.events, self.gates, strict=True):
                await gate.wait()
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.closed += 1


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(work: Awaitable[object]) -> None:
    """A hang becomes a failure."""

    async def limited() -> None:
        async with asyncio.timeout(30):
            await work

    asyncio.run(limited())


async def all_of(events: AsyncGenerator[AnswerEvent]) -> list[AnswerEvent]:
    return [event async for event in events]


def text_of(events: Sequence[AnswerEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Token))


def answer_of(events: Sequence[AnswerEvent]) -> Answer:
    last = events[-1]
    assert isinstance(last, Finished)
    return last.answer


def cache(**options: object) -> tuple[AnswerCache, list[CacheAsked]]:
    """A cache in memory, and what its listener is told."""
    records: list[CacheAsked] = []
    given = {"kept": InMemory(100), "ttl": 60.0, "refusal_ttl": 5.0, "listener": records.append}
    return AnswerCache(**(given | options)), records  # type: ignore[arg-type]


# --- keys -------------------------------------------------------------------------------------


def key(question: str = "Why?", **changes: object) -> str:
    given: dict[str, object] = {
        "model": "m",
        "parameters": {"temperature": 0.1, "top_k": 5},
        "prompt": "3",
        "knowledge_base": "default",
        "stamp": "7f:12",
    }
    return answer_key(question, **(given | changes))  # type: ignore[arg-type]


PICTURE = Image("image/png", b"\x89PNG")


@pytest.mark.parametrize(
    "changes",
    [
        {"question": "Why not?"},
        {"history": (Message("user", "Why?"),)},
        {"history": (Message("assistant", "Why?"),)},
        {"history": (Message("user", "Why?", (PICTURE,)),)},
        {"images": (PICTURE,)},
        {"images": (PICTURE, PICTURE)},
        {"images": (Image("image/jpeg", PICTURE.data),)},
        {"model": "n"},
        {"parameters": {"temperature": 0.2, "top_k": 5}},
        {"parameters": {"temperature": 0.1, "top_k": 5, "preset": "analyst"}},
        {"prompt": "4"},
        {"knowledge_base": "other"},
        {"stamp": "7f:13"},
    ],
    ids=str,
)
def test_whatever_an_answer_depends_on_makes_another_key(changes: dict[str, object]) -> None:
    assert key(**changes) != key()  # type: ignore[arg-type]


def test_the_order_of_parameters_does_not_matter() -> None:
    assert key(parameters={"top_k": 5, "temperature": 0.1}) == key()


_TEXT = st.text(alphabet='ab"\\,[]:{} \n\0', max_size=4)
_MESSAGES = st.lists(
    st.builds(Message, st.sampled_from(["user", "assistant"]), _TEXT), max_size=2
).map(tuple)
_KEYED = st.tuples(_MESSAGES, _TEXT, st.dictionaries(_TEXT, _TEXT, max_size=2), _TEXT, _TEXT, _TEXT)


def keyed(values: tuple[object, ...]) -> str:
    history, model, parameters, prompt, base, stamp = values
    return key(
        history=history,
        model=model,
        parameters=parameters,
        prompt=prompt,
        knowledge_base=base,
        stamp=stamp,
    )


@given(_KEYED, _KEYED)
def test_two_keys_are_equal_only_if_all_is(
    one: tuple[object, ...], other: tuple[object, ...]
) -> None:
    assert (keyed(one) == keyed(other)) == (one == other)


@given(st.text(alphabet="ab", min_size=2, max_size=8), st.data())
def test_text_moved_from_one_part_to_the_next_makes_another_key(
    text: str, data: st.DataObject
) -> None:
    cuts = st.integers(0, len(text))
    one, other = data.draw(st.lists(cuts, min_size=2, max_size=2, unique=True))

    def cut(at: int) -> str:
        return key(knowledge_base=text[:at], stamp=text[at:])

    assert cut(one) != cut(other)


@pytest.mark.parametrize(
    "variant",
    ["how long is the warranty", "  How  long is\tthe warranty ?? ", "HOW LONG IS THE WARRANTY！"],
)
def test_spacing_case_and_closing_marks_make_no_other_question(variant: str) -> None:
    assert key(variant) == key("How long is the warranty?")


def test_full_width_forms_make_no_other_question() -> None:
    assert normalised("ＡＰＩ　怎么用？") == normalised("api 怎么用。") == "api 怎么用"


def test_a_question_of_marks_alone_stays_itself() -> None:
    assert normalised("?") != normalised("!")


@given(st.text())
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


@given(st.text(max_size=20), st.sampled_from(["", " ", "?", "。", " ！ ", "\n"]))
def test_what_stands_behind_a_question_makes_no_other(text: str, behind: str) -> None:
    word = f"a{text}b"
    assert key(f" {word}{behind}") == key(word)


# --- replays ----------------------------------------------------------------------------------

WHOLE = (
    Retrieved((HIT,), 0.5),
    RETRIED,
    USED,
    Token("It is "),
    Token("text [1]."),
    Cited(CITATION),
    finished("It is text [1]."),
)


def test_a_second_question_is_answered_without_asking() -> None:
    async def scene() -> None:
        answers, records = cache()
        asked = Asked(*WHOLE)
        first = await all_of(answers.answer("k", asked))
        second = await all_of(answers.answer("k", asked))
        assert asked.calls == asked.closed == 1
        assert first == list(WHOLE)
        assert [type(event) for event in second] == [
            Retrieved, ToolUsed, Token, Token, Cited, Finished,
        ]  # fmt: skip
        assert text_of(second) == text_of(first)
        assert answer_of(second) == replace(
            answer_of(first), cached=True, timings=answer_of(second).timings
        )
        assert records == [CacheAsked(result="miss"), CacheAsked(result="hit", saved=0.25)]

    run(scene())


def test_the_first_answer_is_not_marked_cached() -> None:
    async def scene() -> None:
        answers, _ = cache()
        assert not answer_of(await all_of(answers.answer("k", Asked(*WHOLE)))).cached

    run(scene())


def test_a_replay_has_the_times_of_its_own_asker() -> None:
    async def scene() -> None:
        clock = Clock()
        answers, _ = cache(clock=clock)
        await all_of(answers.answer("k", Asked(*WHOLE)))
        clock.now += 1000
        replayed = []
        async for event in answers.answer("k", Asked(FAILED)):
            replayed.append(event)
            clock.now += 1
        assert replayed[0] == Retrieved((HIT,), 0.0)
        assert answer_of(replayed).timings == Timings(retrieved=0.0, first_token=2.0, total=5.0)

    run(scene())


def test_other_keys_are_asked_for_themselves() -> None:
    """A changed stamp makes another key; see the tests of keys."""

    async def scene() -> None:
        answers, records = cache()
        old, new = Asked(Token("old"), finished("old")), Asked(Token("new"), finished("new"))
        await all_of(answers.answer(key(stamp="7f:1"), old))
        told = await all_of(answers.answer(key(stamp="7f:2"), new))
        assert text_of(told) == "new"
        assert new.calls == 1
        assert [record.result for record in records] == ["miss", "miss"]

    run(scene())


def test_without_a_key_every_question_is_asked() -> None:
    async def scene() -> None:
        answers, records = cache()
        asked = Asked(*WHOLE)
        for _ in range(2):
            assert await all_of(answers.answer(None, asked)) == list(WHOLE)
        assert asked.calls == 2
        assert records == [CacheAsked(result="bypassed")] * 2

    run(scene())


@pytest.mark.parametrize("last", [FAILED, Held("r", "finance")], ids=["failed", "held"])
def test_what_did_not_finish_is_not_kept(last: AnswerEvent) -> None:
    async def scene() -> None:
        answers, _ = cache()
        broken = Asked(Token("half"), last)
        assert await all_of(answers.answer("k", broken)) == [Token("half"), last]
        whole = await all_of(answers.answer("k", Asked(Token("all"), finished("all"))))
        assert text_of(whole) == "all"

    run(scene())


def test_an_exception_is_raised_and_not_kept() -> None:
    async def scene() -> None:
        answers, _ = cache()
        with pytest.raises(OSError, match="no disk"):
            await all_of(answers.answer("k", Asked(Token("half"), OSError("no disk"))))
        whole = await all_of(answers.answer("k", Asked(Token("all"), finished("all"))))
        assert text_of(whole) == "all"

    run(scene())


def test_what_the_operator_does_not_want_kept_is_not() -> None:
    async def scene() -> None:
        seen: list[int] = []

        def keep(answer: Answer, events: Sequence[AnswerEvent]) -> bool:
            seen.append(len(events))
            return answer.text != "no"

        answers, _ = cache(keep=keep)
        asked = Asked(RETRIED, Token("no"), finished("no"))
        for _ in range(2):
            await all_of(answers.answer("k", asked))
        assert asked.calls == 2
        assert seen == [3, 3]  # retries too

    run(scene())


def test_nothing_is_left_after_clearing() -> None:
    async def scene() -> None:
        answers, records = cache()
        for _ in range(2):
            await all_of(answers.answer("k", Asked(*WHOLE)))
            await answers.clear()
        assert [record.result for record in records] == ["miss", "miss"]

    run(scene())


# --- how long ---------------------------------------------------------------------------------


class Noted(InMemory):
    """Notes how long an answer is to be kept."""

    def __init__(self) -> None:
        super().__init__(10)
        self.seconds: list[float] = []

    async def put(self, key: str, events: tuple[AnswerEvent, ...], seconds: float) -> None:
        self.seconds.append(seconds)


@given(
    st.floats(0.001, 1e6), st.floats(0.001, 1e6), st.floats(0, 0.99), st.floats(0, 1), st.booleans()
)
def test_an_answer_is_kept_for_about_its_time(
    ttl: float, refusal_ttl: float, spread: float, drawn: float, refused: bool
) -> None:
    kept = Noted()
    answers, _ = cache(
        kept=kept, ttl=ttl, refusal_ttl=refusal_ttl, spread=spread, random=lambda: drawn
    )
    asyncio.run(all_of(answers.answer("k", Asked(finished("a", refused=refused)))))
    about = refusal_ttl if refused else ttl
    (seconds,) = kept.seconds
    assert about * (1 - spread) * 0.999999 <= seconds <= about * (1 + spread) * 1.000001
    assert seconds > 0


def test_an_answer_is_forgotten_when_its_time_is_over() -> None:
    async def scene() -> None:
        clock = Clock()
        answers, records = cache(kept=InMemory(10, clock), ttl=60.0, random=lambda: 0.5)
        for passed in (0.0, 59.9, 0.2):
            clock.now += passed
            await all_of(answers.answer("k", Asked(*WHOLE)))
        assert [record.result for record in records] == ["miss", "hit", "miss"]

    run(scene())


def test_the_memory_holds_the_answers_used_last() -> None:
    async def scene() -> None:
        kept = InMemory(2)
        for name in "ab":
            await kept.put(name, WHOLE, 60)
        assert await kept.get("a") is not None
        await kept.put("c", WHOLE, 60)
        assert [await kept.get(name) is not None for name in "abc"] == [True, False, True]

    run(scene())


def test_the_memory_gives_back_the_very_objects() -> None:
    async def scene() -> None:
        kept = InMemory(2)
        await kept.put("a", WHOLE, 60)
        assert await kept.get("a") is WHOLE

    run(scene())


def test_a_hit_costs_microseconds() -> None:
    async def scene() -> None:
        answers, _ = cache()
        ask: Callable[[], AsyncGenerator[AnswerEvent]] = Asked(*WHOLE)
        await all_of(answers.answer("k", ask))
        best = 1.0
        for _ in range(200):
            started = time.perf_counter()
            async for _ in answers.answer("k", ask):
                pass
            best = min(best, time.perf_counter() - started)
        assert best < 50e-6

    run(scene())


# --- as bytes ---------------------------------------------------------------------------------

EVENTS = (*WHOLE, finished("a\nb\u2028\0 \U0001f600", cost=None), Held("r", "why"), FAILED)


def test_every_event_comes_back_from_bytes_as_it_was() -> None:
    assert {type(event).__name__ for event in EVENTS} == set(_names())
    assert decoded_all(encoded_all(EVENTS)) == EVENTS


def _names() -> list[str]:
    return [event.__name__ for event in AnswerEvent.__args__]


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back_from_bytes(text: str) -> None:
    events = (Token(text), Token(text))
    assert decoded_all(encoded_all(events)) == events


@pytest.mark.parametrize("junk", [b"", b"Token", b"Nothing {}", b'Token {"text":1}', b"\xff {}"])
def test_other_bytes_are_a_value_error(junk: bytes) -> None:
    with pytest.raises(ValueError, match=r"event|valid|decode"):
        decoded_all(junk)


def test_the_shape_of_events_has_a_short_name() -> None:
    assert re.fullmatch("[0-9a-f]{12}", shape())
