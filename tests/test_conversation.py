"""What passes between us and a model: tools called and answered, less said when it is too much."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from rag.conversation import Conversation, ToolLimits
from rag.errors import ContextTooLongError, ToolError
from rag.prompt import ASSISTANT, Prompt, build_prompt
from rag.sources import Sources, search_tool
from rag.tools import Tool, tool
from rag.types import (
    ChatRequest,
    Delta,
    Filters,
    Hit,
    Message,
    Retrieved,
    ToolCall,
    ToolUsed,
    Usage,
)
from tests.chat_fakes import FakeChat, FakeClock, Gate, Step
from tests.test_citations import COSTS, LEAVE, hit

COSTING = hit(COSTS)
HITS = [hit(LEAVE), replace(COSTING, chunk=replace(COSTING.chunk, ordinal=1))]
TOO_LONG = ContextTooLongError("too long")


def call(name: str, arguments: str = "{}", id_: str = "c1") -> ToolCall:
    return ToolCall(id_, name, arguments)


def calls(*wanted: ToolCall) -> Delta:
    return Delta(tool_calls=wanted, finish_reason="tool_calls", model="fake")


@tool
async def twice(n: int) -> int:
    """Doubles a number."""
    return n * 2


@tool
async def broken() -> str:
    """Never works."""
    raise ToolError("It is broken. Try another way.")


class Talk:
    """A conversation with a scripted model, and everything that came of it."""

    def __init__(
        self,
        *scripts: list[Step],
        tools: tuple[Tool, ...] = (),
        hits: list[Hit] = HITS,
        history: tuple[Message, ...] = (),
        limits: ToolLimits = ToolLimits(steps=3, seconds=60),
    ) -> None:
        self.model = FakeChat(*scripts)
        self.clock = FakeClock()
        self.sources = Sources(hits)
        self.tools = tools
        self.conversation = Conversation(
            self.model,
            lambda turns, most: self._prompt(history, turns, most),
            ChatRequest(messages=()),
            sources=self.sources,
            tools={each.spec.name: each for each in tools},
            limits=limits,
            clock=self.clock,
        )

    def _prompt(self, history: tuple[Message, ...], turns: int | None, most: int | None) -> Prompt:
        return build_prompt(
            "病假？",
            self.sources.hits,
            budget=8000,
            history=history,
            preset=ASSISTANT,
            max_turns=turns,
            max_hits=most,
        )

    def pieces(self) -> list[Any]:
        async def run() -> list[Any]:
            return [piece async for piece in self.conversation.pieces()]

        return asyncio.run(run())

    def messages(self, request: int) -> tuple[Message, ...]:
        return self.model.requests[request].messages


def test_the_results_of_tools_go_back_in_the_order_of_their_calls() -> None:
    """Whichever is done first: each result answers its own call."""
    gate = Gate()

    @tool
    async def slow() -> str:
        """Waits for the other."""
        await gate.passed()
        return "slow is done"

    @tool
    async def quick() -> str:
        """Lets the other go on."""
        await gate.reached()
        gate.open()
        return "quick is done"

    talk = Talk(
        [calls(call("slow", id_="a"), call("quick", id_="b"))], ["fine"], tools=(slow, quick)
    )
    pieces = talk.pieces()
    assert [p.name for p in pieces if isinstance(p, ToolUsed)] == ["quick", "slow"]
    asked, *results = talk.messages(1)[-3:]
    assert [c.id for c in asked.tool_calls] == ["a", "b"]
    assert [(m.role, m.tool_call_id, m.text) for m in results] == [
        ("tool", "a", "slow is done"),
        ("tool", "b", "quick is done"),
    ]


def test_what_is_said_before_and_after_a_tool_stands_apart() -> None:
    talk = Talk(
        ["Let me ", "see.", calls(call("twice", '{"n": 4}'))], ["It ", "is 8."], tools=(twice,)
    )
    assert "".join(p for p in talk.pieces() if isinstance(p, str)) == "Let me see.\n\nIt is 8."


def test_an_error_of_a_tool_is_told_to_the_model() -> None:
    talk = Talk(
        [calls(call("broken"))],
        [calls(call("twice", '{"n": "x"}'))],
        ["sorry"],
        tools=(broken, twice),
    )
    used = [p for p in talk.pieces() if isinstance(p, ToolUsed)]
    assert [u.failed for u in used] == [True, True]
    assert talk.messages(1)[-1].text == "It is broken. Try another way."
    assert talk.messages(2)[-1].text.startswith("Wrong arguments for twice")


def test_after_the_last_step_the_model_has_to_answer() -> None:
    limits = ToolLimits(steps=2, seconds=60)
    again: list[Step] = [calls(call("twice", '{"n": 1}'))]
    talk = Talk(again, again, ["two, ", calls(call("twice"))], tools=(twice,), limits=limits)
    assert [p for p in talk.pieces() if isinstance(p, str)] == ["two, "]
    assert [len(r.tools) for r in talk.model.requests] == [1, 1, 0]
    assert "Answer now" in talk.messages(2)[-1].text


def test_after_its_time_no_tool_is_offered() -> None:
    talk = Talk([calls(call("late"))], ["done"], limits=ToolLimits(steps=5, seconds=10))

    @tool
    async def late() -> str:
        """Takes all the time there is."""
        talk.clock.advance(11)
        return "late"

    talk.conversation._tools = {"late": late}
    talk.pieces()
    assert [len(r.tools) for r in talk.model.requests] == [1, 0]


def test_a_model_that_looks_again_gets_sources_with_new_numbers() -> None:
    class Found:
        def retrieve(self, question: str, **_: object) -> list[Hit]:
            return [HITS[0], HITS[1]]

    talk = Talk(
        [calls(call("search_knowledge", '{"question": "费用"}'))],
        [calls(call("search_knowledge", '{"question": "费用"}'))],
        ["好"],
        hits=[HITS[0]],
    )
    found: Any = Found()
    searching = search_tool(talk.sources, found, Filters())
    talk.conversation._tools = {"search_knowledge": searching}
    pieces = talk.pieces()
    assert [len(p.hits) for p in pieces if isinstance(p, Retrieved)] == [2]
    assert list(talk.sources.shown) == [1, 2]
    assert '<source n="2"' in talk.messages(1)[-1].text
    assert '<source n="1"' not in talk.messages(1)[-1].text
    assert "Nothing new" in talk.messages(2)[-1].text


def test_turns_are_left_out_first_and_then_the_weakest_passages() -> None:
    history = tuple(Message("user" if n % 2 == 0 else "assistant", f"turn {n}") for n in range(8))
    talk = Talk([TOO_LONG], [TOO_LONG], [TOO_LONG], [TOO_LONG], ["fine"], history=history)
    assert talk.pieces() == ["fine"]
    sizes = [
        (len(m.messages) - 2, m.messages[0].text.count("<source n=")) for m in talk.model.requests
    ]
    assert sizes == [(8, 2), (4, 2), (2, 2), (0, 2), (0, 1)]
    assert talk.conversation.shortened
    assert (talk.conversation.prompt.dropped_turns, talk.conversation.prompt.dropped_hits) == (8, 1)
    assert list(talk.sources.shown) == [1]


def test_what_cannot_be_made_shorter_is_an_error() -> None:
    talk = Talk([TOO_LONG], hits=[HITS[0]])
    with pytest.raises(ContextTooLongError):
        talk.pieces()
    assert len(talk.model.requests) == 1


def test_once_tools_were_called_the_longest_result_is_cut() -> None:
    @tool
    async def long() -> str:
        """Says much."""
        return "x" * 2000

    talk = Talk([calls(call("long"))], [TOO_LONG], [TOO_LONG], ["fine"], tools=(long,))
    assert talk.pieces()[-1] == "fine"
    assert [len(talk.messages(n)[-1].text) < 1100 for n in (1, 2, 3)] == [False, True, True]
    assert len(talk.messages(3)[-1].text) < 600


def test_usage_is_that_of_all_calls_and_the_name_that_of_the_last() -> None:
    usage = Delta(usage=Usage(10, 5, False, 0.25), model="other")
    talk = Talk([calls(call("twice", '{"n": 1}')), usage], ["two", usage], tools=(twice,))
    talk.pieces()
    assert talk.conversation.usage == Usage(20, 10, False, 0.5)
    assert talk.conversation.name == "other"


def test_going_away_while_a_tool_works_stops_it() -> None:
    ended: list[str] = []

    async def run() -> None:
        gate = Gate()

        @tool
        async def endless() -> str:
            """Never comes back."""
            try:
                await gate.passed()
            finally:
                ended.append("stopped")
            return ""

        talk = Talk([calls(call("endless"))], tools=(endless,))

        async def read() -> None:
            async with aclosing(talk.conversation.pieces()) as pieces:
                async for _ in pieces:
                    pass

        reading = asyncio.create_task(read())
        await gate.reached()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    asyncio.run(run())
    assert ended == ["stopped"]
