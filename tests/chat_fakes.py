"""A chat model in this process that does what a test wrote down, and a clock that only tests move.

    model = FakeChat([ModelBusyError("later")], ["Hel", "lo", USAGE])
    assert texts(Retrying(model, ...)) == ["Hel", "lo"]

Each call takes the next script of the model; the last one is kept for all calls that follow. A
script is a list of steps: a text or an event is given out, an error raised, a `Gate` waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing

from rag.types import Abilities, ChatModel, ChatRequest, Delta, Message, ModelEvent, Usage

ASK = ChatRequest(messages=(Message("user", "年假有几天？"),))
USAGE = Delta(usage=Usage(120, 7))
STOP = Delta(finish_reason="stop")


class Gate:
    """Holds a call until it is opened. Use it within one event loop."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._reached = asyncio.Event()

    def open(self) -> None:
        self._open.set()

    async def passed(self) -> None:
        self._reached.set()
        await self._open.wait()

    async def reached(self) -> None:
        """Returns when a call stands before the gate."""
        await self._reached.wait()


Step = str | ModelEvent | Exception | Gate


class FakeChat:
    """`requests` are those it got; `produced` counts the events it was asked for and gave.

    `under_way` counts calls begun and not ended, `left` those that were closed or cancelled
    before their end, `closed` the calls of `aclose`. `scripts` are those to come.
    """

    def __init__(
        self, *scripts: Sequence[Step], name: str = "fake", context_window: int = 8192
    ) -> None:
        self.name = name
        self.abilities = Abilities(context_window=context_window, tools=True)
        self.requests: list[ChatRequest] = []
        self.produced = self.under_way = self.left = self.closed = 0
        self.scripts = list(scripts) or [["fine"]]

    async def chat(self, request: ChatRequest) -> AsyncGenerator[ModelEvent]:
        self.requests.append(request)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        self.under_way += 1
        try:
            for step in script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, Gate):
                    await step.passed()
                    continue
                self.produced += 1
                yield Delta(step, model=self.name) if isinstance(step, str) else step
        except (GeneratorExit, asyncio.CancelledError):
            self.left += 1
            raise
        finally:
            self.under_way -= 1

    async def aclose(self) -> None:
        self.closed += 1


class FakeClock:
    """Seconds that pass only in `sleep` and `advance`; `slept` are the pauses."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


async def collect(
    model: ChatModel, request: ChatRequest = ASK
) -> tuple[list[ModelEvent], Exception | None]:
    """All events of a call, and the error it ended with."""
    events: list[ModelEvent] = []
    try:
        async with aclosing(model.chat(request)) as stream:
            async for event in stream:
                events.append(event)  # noqa: PERF401 - those before an error count too
    except Exception as error:  # noqa: BLE001 - a test looks at whatever it was
        return events, error
    return events, None


def ask(model: ChatModel) -> tuple[list[ModelEvent], Exception | None]:
    """`collect` in an event loop of its own."""
    return asyncio.run(collect(model))


def texts(events: Iterable[ModelEvent]) -> list[str]:
    return [event.text for event in events if isinstance(event, Delta) and event.text]
