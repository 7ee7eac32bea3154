"""What every chat model keeps: the one at the wire, and each wrapper round another.

A new wrapper needs one line in `WRAPPERS`. Wrappers stand here in settings in which they have
nothing to do of their own: one try, one key, one model.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

import pytest

from rag.chat.breaker import CircuitBreaker
from rag.chat.client import OpenAIChat
from rag.chat.fallback import Fallback
from rag.chat.keys import KeyRing
from rag.chat.retry import Retrying
from rag.chat.spend import Metered
from rag.chat.text_tools import TextTools
from rag.chat.wrapper import Wrapper
from rag.errors import (
    ContextTooLongError,
    ModelAuthError,
    ModelBusyError,
    ModelError,
    ModelFormatError,
    ModelRequestError,
    ModelStreamError,
    ModelUnavailableError,
)
from rag.shared import LocalState
from rag.types import Abilities, ChatModel, Delta, ModelEvent, ToolCall, Usage
from tests.chat_fakes import ASK, STOP, USAGE, FakeChat, Gate, Step, collect, texts
from tests.scripted_model import (
    DEADLINE,
    Behaviour,
    Connection,
    ScriptedModel,
    delta,
    page,
    status,
    unfinished,
)


def _retrying(model: ChatModel) -> ChatModel:
    return Retrying(model, attempts=1, base=0.5, maximum=20.0, deadline=90.0)


def _breaker(model: ChatModel) -> ChatModel:
    return CircuitBreaker(
        model,
        LocalState(),
        failures=5,
        window=60.0,
        open_seconds=30.0,
        probes=1,
        successes=1,
    )


def _keys(model: ChatModel) -> ChatModel:
    return KeyRing([model], labels=["key 1 of 1"])


def _fallback(model: ChatModel) -> ChatModel:
    return Fallback([model])


class _NoLedger:
    """What a call costs is not what is tested here."""

    has_budgets = False

    def settle_soon(self, reservation: object, call: object) -> Future[None]:
        written: Future[None] = Future()
        written.set_result(None)
        return written

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"without budgets nobody calls {name}")


def _metered(model: ChatModel) -> ChatModel:
    return Metered(model, None, _NoLedger(), lambda _: None)  # type: ignore[arg-type]


WRAPPERS: dict[str, Callable[[ChatModel], ChatModel]] = {
    "Wrapper": Wrapper,
    "Retrying": _retrying,
    "CircuitBreaker": _breaker,
    "KeyRing": _keys,
    "Fallback": _fallback,
    "Metered": _metered,
    "TextTools": TextTools,
    "as the gateway does": lambda model: _fallback(
        TextTools(_retrying(_breaker(_metered(_keys(model)))))
    ),
}


# --- the two ends -------------------------------------------------------------------------------


class Door(Gate):
    """A gate for a thread too."""

    def __init__(self) -> None:
        super().__init__()
        self._opened = threading.Event()

    def open(self) -> None:
        super().open()
        self._opened.set()

    def wait(self) -> None:
        assert self._opened.wait(DEADLINE)


class End(Protocol):
    """What answers in the end, behind the model that is tested."""

    model: ChatModel

    def plays(self, *script: Step) -> None:
        """What the next call does."""

    def calls(self) -> int: ...

    async def stands_at(self, gate: Gate) -> None:
        """Returns when the call has come to the gate."""

    def abandoned(self) -> bool:
        """Whether the last call was given up by the one who made it."""

    def closed(self) -> bool: ...


class InProcess:
    def __init__(self, wrap: Callable[[ChatModel], ChatModel]) -> None:
        self.fake = FakeChat(name="gpt-test")
        self.model = wrap(self.fake)

    def plays(self, *script: Step) -> None:
        self.fake.scripts[:] = [script]

    def calls(self) -> int:
        return len(self.fake.requests)

    async def stands_at(self, gate: Gate) -> None:
        await gate.reached()

    def abandoned(self) -> bool:
        return self.fake.left == 1 and self.fake.under_way == 0

    def closed(self) -> bool:
        return self.fake.closed == 1


class AtTheWire:
    def __init__(self, server: ScriptedModel) -> None:
        self.server = server
        self.model: ChatModel = OpenAIChat(
            "gpt-test",
            api_key="sk-loopback-0123456789",
            base_url=server.url,
            abilities=Abilities(context_window=8192, tools=True),
            timeout=DEADLINE,
        )

    def plays(self, *script: Step) -> None:
        self.server.next(FAILURES[type(script[0])] if script[0] in ERRORS else streamed(script))

    def calls(self) -> int:
        return len(self.server.requests)

    async def stands_at(self, gate: Gate) -> None:
        await asyncio.to_thread(self.server.wait_for, 1)

    def abandoned(self) -> bool:
        return self.server.requests[-1].gone.wait(DEADLINE)

    def closed(self) -> bool:
        assert isinstance(self.model, OpenAIChat)
        return self.model._client.is_closed()


FAILURES: dict[type, Behaviour] = {
    ModelAuthError: status(401),
    ModelRequestError: status(404),
    ContextTooLongError: status(400, message="This model's maximum context length is 8192 tokens."),
    ModelBusyError: status(429),
    ModelUnavailableError: status(503),
    ModelStreamError: unfinished(""),
    ModelFormatError: page,
}
ERRORS: list[ModelError] = [kind("no") for kind in FAILURES]
CALL = ToolCall("call-1", "calculate", '{"expression": "15 + 5"}')


def streamed(script: tuple[Step, ...]) -> Behaviour:
    def behave(connection: Connection) -> None:
        connection.begin()
        for step in script:
            if isinstance(step, Door):
                step.wait()
            elif isinstance(step, Gate):
                return connection.wait_until_gone()
            elif isinstance(step, Exception):
                return None
            else:
                connection.event(_chunk(step))
        return connection.end()

    return behave


def _chunk(step: Step) -> dict[str, object]:
    if isinstance(step, str):
        return delta(step)
    assert isinstance(step, Delta)
    if step.usage:
        tokens = {
            "prompt_tokens": step.usage.prompt_tokens,
            "completion_tokens": step.usage.completion_tokens,
        }
        return delta("") | {"choices": [], "usage": tokens}
    chunk = delta("", finish=step.finish_reason)
    chunk["choices"][0]["delta"]["tool_calls"] = [
        {
            "index": n,
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for n, call in enumerate(step.tool_calls)
    ]
    return chunk


@pytest.fixture(params=["OpenAIChat", *WRAPPERS])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[[], End]]:
    if request.param != "OpenAIChat":
        yield lambda: InProcess(WRAPPERS[request.param])
        return
    with ScriptedModel() as server:
        yield lambda: AtTheWire(server)


async def first_word(events: AsyncGenerator[ModelEvent]) -> str:
    async for event in events:
        if isinstance(event, Delta) and event.says_something:
            return event.text
    pytest.fail("not a word")


# --- the contract -------------------------------------------------------------------------------


def test_all_pieces_pass_in_order_with_the_tool_calls_and_the_usage(
    make: Callable[[], End],
) -> None:
    async def run() -> None:
        end = make()
        end.plays("十五", "天 [", "1", "]。", Delta(tool_calls=(CALL,)), STOP, USAGE)
        async with aclosing(end.model):
            events, error = await collect(end.model)
        deltas = [event for event in events if isinstance(event, Delta)]
        assert (error, len(deltas)) == (None, len(events))
        assert texts(events) == ["十五", "天 [", "1", "]。"]
        assert [d.tool_calls for d in deltas if d.tool_calls] == [(CALL,)]
        assert [d.finish_reason for d in deltas if d.finish_reason] == ["stop"]
        assert [d.usage for d in deltas if d.usage] == [Usage(120, 7)]
        assert deltas[-1].usage
        assert {d.model for d in deltas if d.text} == {"gpt-test"}

    asyncio.run(run())


def test_a_piece_arrives_before_the_next_is_written(make: Callable[[], End]) -> None:
    async def run() -> None:
        end, door = make(), Door()
        end.plays("first", door, "second", STOP)
        async with aclosing(end.model), aclosing(end.model.chat(ASK)) as events:
            assert await first_word(events) == "first"
            door.open()
            assert await first_word(events) == "second"

    asyncio.run(run())


@pytest.mark.parametrize("failure", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_passes_as_what_it_is_and_nothing_is_tried_again(
    make: Callable[[], End], failure: ModelError
) -> None:
    async def run() -> None:
        end = make()
        end.plays(failure)
        async with aclosing(end.model):
            events, error = await collect(end.model)
        assert type(error) is type(failure)
        assert (texts(events), end.calls()) == ([], 1)

    asyncio.run(run())


def test_a_break_after_the_first_word_is_raised_behind_it(make: Callable[[], End]) -> None:
    async def run() -> None:
        end = make()
        end.plays("fi", ModelStreamError("cut"))
        async with aclosing(end.model):
            events, error = await collect(end.model)
        assert texts(events) == ["fi"]
        assert isinstance(error, ModelStreamError)
        assert end.calls() == 1

    asyncio.run(run())


def test_closing_in_mid_stream_ends_the_call(make: Callable[[], End]) -> None:
    async def run() -> None:
        end = make()
        end.plays("fi", Gate())
        async with aclosing(end.model):
            events = end.model.chat(ASK)
            await first_word(events)
            await events.aclose()
            assert end.abandoned()

    asyncio.run(run())


@pytest.mark.parametrize("before", [(), ("fi",)], ids=["before a word", "in mid-stream"])
def test_cancelling_ends_the_call(make: Callable[[], End], before: tuple[Step, ...]) -> None:
    async def run() -> None:
        end, gate, spoken = make(), Gate(), asyncio.Event()
        end.plays(*before, gate)

        async def read() -> None:
            async with aclosing(end.model.chat(ASK)) as events:
                async for _ in events:
                    spoken.set()

        async with aclosing(end.model):
            reading = asyncio.create_task(read())
            await end.stands_at(gate)
            if before:
                await spoken.wait()
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert end.abandoned()

    asyncio.run(run())


def test_the_name_and_the_abilities_are_those_of_the_model(make: Callable[[], End]) -> None:
    async def run() -> None:
        async with aclosing(make().model) as model:
            assert (model.name, model.abilities) == (
                "gpt-test",
                Abilities(context_window=8192, tools=True),
            )

    asyncio.run(run())


def test_closing_closes_the_model_within(make: Callable[[], End]) -> None:
    async def run() -> None:
        end = make()
        await end.model.aclose()
        assert end.closed()

    asyncio.run(run())


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=list(WRAPPERS))
def test_the_request_and_every_event_pass_unchanged(
    wrap: Callable[[ChatModel], ChatModel],
) -> None:
    async def run() -> None:
        script = [Delta(), Delta("a", model="gpt-test"), STOP, replace(USAGE, model="fake")]
        fake = FakeChat(script)
        assert await collect(wrap(fake)) == (script, None)
        assert fake.requests[0] is ASK

    asyncio.run(run())
