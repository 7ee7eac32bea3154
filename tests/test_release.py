"""Nothing of an answer that needs approval is read before a person has approved it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from rag.prompt import REFUSAL
from rag.release import released
from rag.types import (
    Answer,
    AnswerEvent,
    Failed,
    Finished,
    Held,
    Hit,
    Retrieved,
    Timings,
    Token,
    ToolUsed,
    Usage,
)
from tests.test_citations import COSTS, LEAVE, hit

PLAIN, SECRET = hit(LEAVE), hit(COSTS)
USED = ToolUsed(name="search", arguments="{}", result="", failed=False, seconds=0.0)


def finished(text: str = "15 days", *, refused: bool = False) -> Finished:
    return Finished(
        Answer(
            text=text,
            refused=refused,
            citations=(),
            model="m",
            usage=Usage(),
            timings=Timings(retrieved=0, first_token=None, total=0),
        )
    )


def reason(hits: Sequence[Hit]) -> str:
    return "tag finance" if SECRET in hits else ""


def events_of(*script: AnswerEvent) -> tuple[list[AnswerEvent], list[Answer]]:
    """What the asker sees, and what was held."""
    held: list[Answer] = []

    def hold(answer: Answer, why: str) -> str:
        assert why == "tag finance"
        held.append(answer)
        return "r1"

    async def told() -> AsyncGenerator[AnswerEvent]:
        for event in script:
            yield event

    async def run() -> list[AnswerEvent]:
        async with aclosing(released(told(), reason, hold)) as events:
            return [event async for event in events]

    return asyncio.run(run()), held


def test_an_answer_that_needs_no_approval_is_whole() -> None:
    script = (Retrieved((PLAIN,), 0.0), Token("15 "), USED, Token("days"), finished())
    assert events_of(*script) == (list(script), [])


def test_of_one_that_does_only_the_passages_are_seen() -> None:
    found = Retrieved((PLAIN, SECRET), 0.0)
    events, held = events_of(found, Token("15 "), USED, Token("days"), finished())
    assert events == [found, Held("r1", "tag finance")]
    assert [answer.text for answer in held] == ["15 days"]


def test_what_the_model_finds_later_counts_too() -> None:
    first, later = Retrieved((PLAIN,), 0.0), Retrieved((PLAIN, SECRET), 0.0)
    events, held = events_of(first, Token("Let me see."), USED, later, Token("15"), finished())
    assert events == [first, later, Held("r1", "tag finance")]
    assert held


def test_a_plain_refusal_and_a_failure_need_no_approval() -> None:
    found, said = Retrieved((SECRET,), 0.0), Token(REFUSAL["en"])
    refusal = finished(REFUSAL["en"], refused=True)
    assert events_of(found, said, refusal) == ([found, said, refusal], [])
    failed = Failed("model_busy", "busy", "", True)
    assert events_of(found, Token("15"), failed) == ([found, failed], [])


def test_a_refusal_that_goes_on_may_tell_something_and_waits() -> None:
    found = Retrieved((SECRET,), 0.0)
    told = finished(REFUSAL["en"] + " But costs are 120.", refused=True)
    assert events_of(found, told)[0] == [found, Held("r1", "tag finance")]
