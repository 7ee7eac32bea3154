"""Every call is paid for exactly once, however it ends, and told once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import count
from pathlib import Path
from types import MappingProxyType

import pytest

from rag.application import ApplicationDatabase
from rag.chat.spend import IMAGE_TOKENS, Metered, prompt_tokens
from rag.errors import (
    BudgetError,
    ModelAuthError,
    ModelBusyError,
    ModelError,
    ModelFormatError,
    ModelRequestError,
    ModelStreamError,
    ModelTimeoutError,
    ModelUnavailableError,
)
from rag.ledger import Ledger, Reservation
from rag.prices import Price
from rag.records import Called, Record
from rag.specs import Budget
from rag.types import (
    Abilities,
    CallContext,
    ChatRequest,
    Delta,
    Image,
    Message,
    ModelEvent,
    Retried,
    ToolCall,
    ToolSpec,
    Usage,
)

PRICE = Price(Decimal(1), Decimal(10))  # 1,000 and 10,000 nano-dollars a token
AT = 1_777_636_800.0  # 2026-05-01 12:00 UTC
QUESTION = Message("user", "x" * 40)  # estimated at 10 tokens, and 4 for the message
ASKED = 14
CONTEXT = CallContext(caller="alice", session_id="s", knowledge_base="default")
STALL = "stall"

Step = ModelEvent | BaseException | str


ABILITIES = Abilities(context_window=1000, max_output_tokens=100)


@dataclass
class Scripted:
    """A chat model that plays `steps`: gives out events, raises errors, waits for ever."""

    steps: Sequence[Step]
    abilities: Abilities = ABILITIES
    name: str = "m"
    stalled: asyncio.Event = field(default_factory=asyncio.Event)
    asked: int = 0
    closed: int = 0

    async def chat(self, request: ChatRequest) -> AsyncGenerator[ModelEvent]:
        self.asked += 1
        try:
            for step in self.steps:
                if isinstance(step, BaseException):
                    raise step
                if isinstance(step, str):
                    self.stalled.set()
                    await asyncio.Event().wait()
                else:
                    yield step
        finally:
            self.closed += 1

    async def aclose(self) -> None: ...


@dataclass
class Counter:
    """Ledger, model and listener of one test; time goes on by a second with each look."""

    ledger: Ledger
    told: list[Record] = field(default_factory=list)

    def metered(self, model: Scripted, price: Price | None = PRICE) -> Metered:
        seconds = count()
        return Metered(
            model,
            price,
            self.ledger,
            self.told.append,
            clock=lambda: float(next(seconds)),
            wall=lambda: AT,
        )

    @property
    def call(self) -> Called:
        (record,) = self.told
        assert isinstance(record, Called)
        return record

    def written(self) -> tuple[int, float]:
        """Calls and dollars of the session once all is written."""
        self.ledger.close()
        row = self.ledger.session_cost("s")
        assert all(use.reserved == 0 for use in self.ledger.budgets_used())
        return row.calls, row.cost


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Counter]]:
    database = ApplicationDatabase(f"sqlite:///{tmp_path / 'application.db'}")
    ledgers = []

    def open_with(*budgets: Budget) -> Counter:
        ledger = Ledger(database, budgets, clock=lambda: AT)
        ledgers.append(ledger)
        return Counter(ledger)

    yield open_with
    for ledger in ledgers:
        ledger.close()
    database.close()


@pytest.fixture
def counter(opened: Callable[..., Counter]) -> Counter:
    return opened(Budget(day=1))


def request(*messages: Message, **options: object) -> ChatRequest:
    return ChatRequest(messages=messages or (QUESTION,), context=CONTEXT, **options)  # type: ignore[arg-type]


def events_of(model: Metered, asked: ChatRequest | None = None) -> list[ModelEvent]:
    async def run() -> list[ModelEvent]:
        return [event async for event in model.chat(asked or request())]

    return asyncio.run(run())


# --- the last piece ---------------------------------------------------------------------------

PRICED = Usage(100, 7, cost=0.000_17)  # 100 x 1,000 + 7 x 10,000 nano-dollars
REPORTED = Usage(100, 7)
HELLO, STOP = Delta("Hello"), Delta(finish_reason="stop")


@pytest.mark.parametrize(
    ("server", "given_out"),
    [
        pytest.param(
            [HELLO, STOP, Delta(usage=REPORTED)],
            [HELLO, STOP, Delta(usage=PRICED, model="m")],
            id="usage alone and last",
        ),
        pytest.param(
            [Delta("Hello", REPORTED, "stop")],
            [Delta("Hello", PRICED, "stop", model="m")],
            id="a whole reply stays one piece",
        ),
        pytest.param(
            [Delta("Hel", Usage(100, 3)), Delta("lo", REPORTED, "stop"), Delta(usage=REPORTED)],
            [Delta("Hel"), Delta("lo", None, "stop", model="m"), Delta(usage=PRICED, model="m")],
            id="usage so far with every piece",
        ),
        pytest.param(
            [Delta(usage=Usage(100, 0)), HELLO, Delta(usage=REPORTED, finish_reason="stop")],
            [HELLO, Delta(usage=PRICED, finish_reason="stop", model="m")],
            id="usage at the beginning",
        ),
        pytest.param(
            [HELLO, STOP],
            [HELLO, STOP, Delta(usage=Usage(ASKED, 2, True, 0.000_034), model="m")],
            id="no usage",
        ),
        pytest.param(
            [HELLO, STOP, Delta(usage=Usage())],
            [HELLO, STOP, Delta(usage=Usage(ASKED, 2, True, 0.000_034), model="m")],
            id="usage of nothing is none",
        ),
        pytest.param(
            [Retried(model="m", next_model="m", code="c", reason="r"), Delta(usage=REPORTED)],
            [
                Retried(model="m", next_model="m", code="c", reason="r"),
                Delta(usage=PRICED, model="m"),
            ],
            id="other events pass",
        ),
    ],
)
def test_the_cost_comes_once_and_last(
    counter: Counter, server: list[ModelEvent], given_out: list[ModelEvent]
) -> None:
    assert events_of(counter.metered(Scripted(server))) == given_out
    assert counter.call.outcome == "ok"
    cost = counter.call.usage.cost
    assert cost is not None
    assert counter.written() == (1, cost)


def test_a_piece_is_given_out_before_the_next_is_asked_for(counter: Counter) -> None:
    model = Scripted([HELLO, STALL])

    async def run() -> None:
        async with aclosing(counter.metered(model).chat(request())) as events:
            assert await anext(events) == HELLO
            assert not model.stalled.is_set()

    asyncio.run(run())


def test_tool_calls_are_part_of_the_reply(counter: Counter) -> None:
    call = ToolCall("1", "look", '{"for": "a thing"}')
    events_of(counter.metered(Scripted([Delta(tool_calls=(call,))])))
    assert counter.call.usage.completion_tokens == 1 + 5


def test_a_model_of_unknown_price_is_counted_without_a_cost(
    counter: Counter, caplog: pytest.LogCaptureFixture
) -> None:
    events = events_of(counter.metered(Scripted([HELLO, Delta(usage=REPORTED)]), price=None))
    assert events[-1] == Delta(usage=REPORTED, model="m")
    assert counter.written() == (1, 0.0)
    assert counter.ledger.session_cost("s").unknown_cost_calls == 1
    assert "no budget can hold it" in caplog.text


def test_a_free_model_needs_no_budget(opened: Callable[..., Counter]) -> None:
    counter = opened(Budget(day=0))
    assert events_of(counter.metered(Scripted([HELLO]), price=Price(Decimal(0), Decimal(0))))[
        -1
    ] == Delta(usage=Usage(ASKED, 2, True, 0.0), model="m")


def test_the_record_holds_request_reply_and_times(counter: Counter) -> None:
    asked = request()
    events_of(counter.metered(Scripted([Delta(""), HELLO, Delta(" you"), STOP])), asked)
    assert counter.call == Called(
        at=AT,
        model="m",
        outcome="ok",
        code="",
        usage=Usage(ASKED, 3, True, 0.000_044),
        seconds=2.0,
        first_token=1.0,
        request=asked,
        reply="Hello you",
    )


def test_the_cost_can_be_read_when_the_stream_has_ended(counter: Counter) -> None:
    events_of(counter.metered(Scripted([HELLO, Delta(usage=REPORTED)])))
    assert counter.ledger.session_cost("s").cost == PRICED.cost


# --- calls that end badly ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ModelAuthError("401"),
        ModelRequestError("400"),
        ModelBusyError("429"),
        ModelUnavailableError("503"),
        ValueError("a bug"),
    ],
    ids=repr,
)
def test_what_the_server_refused_or_never_got_is_free(counter: Counter, error: Exception) -> None:
    with pytest.raises(type(error)):
        events_of(counter.metered(Scripted([error])))
    assert counter.call.outcome == "failed"
    assert counter.call.code == getattr(error, "code", "error")
    assert counter.call.usage == Usage(0, 0, False, 0.0)
    assert counter.written() == (1, 0.0)


@pytest.mark.parametrize(
    ("steps", "reply"),
    [
        ([ModelTimeoutError("nothing came")], ""),
        ([ModelStreamError("no events")], ""),
        ([ModelFormatError("not JSON")], ""),
        ([Delta(""), ModelUnavailableError("gone")], ""),
        ([HELLO, ModelStreamError("cut")], "Hello"),
    ],
)
def test_what_broke_off_or_never_came_is_charged_by_estimate(
    counter: Counter, steps: list[Step], reply: str
) -> None:
    with pytest.raises(ModelError):
        events_of(counter.metered(Scripted(steps)))
    tokens = 2 if reply else 0
    cost = (ASKED * 1000 + tokens * 10_000) / 1e9
    assert counter.call.outcome == "failed"
    assert counter.call.reply == reply
    assert counter.call.usage == Usage(ASKED, tokens, True, cost)
    assert counter.written() == (1, cost)


def test_a_text_that_waited_for_its_cost_comes_before_the_error(counter: Counter) -> None:
    model = counter.metered(Scripted([Delta("Hello", REPORTED, "stop"), ModelStreamError("cut")]))
    seen: list[ModelEvent] = []

    async def run() -> None:
        async for event in model.chat(request()):
            seen.append(event)  # noqa: PERF401 - what came before the error is the point

    with pytest.raises(ModelStreamError):
        asyncio.run(run())
    assert seen == [Delta("Hello", None, "stop", model="m")]
    assert counter.call.usage == PRICED
    assert counter.written() == (1, PRICED.cost)


@pytest.mark.parametrize("said", [[], [HELLO]])
def test_a_cancelled_call_is_charged_by_estimate(counter: Counter, said: list[Step]) -> None:
    model = Scripted([*said, STALL])

    async def run() -> None:
        async def consume() -> None:
            async for _ in counter.metered(model).chat(request()):
                pass

        task = asyncio.create_task(consume())
        await model.stalled.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    tokens = 2 if said else 0
    cost = (ASKED * 1000 + tokens * 10_000) / 1e9
    assert model.closed == 1
    assert (counter.call.outcome, counter.call.code) == ("cancelled", "")
    assert counter.call.usage == Usage(ASKED, tokens, True, cost)
    assert counter.written() == (1, cost)


@pytest.mark.parametrize(("pieces", "outcome"), [(1, "cancelled"), (3, "ok")])
def test_who_stops_listening_pays_once(counter: Counter, pieces: int, outcome: str) -> None:
    model = Scripted([HELLO, STOP, Delta(usage=REPORTED)])

    async def run() -> None:
        async with aclosing(counter.metered(model).chat(request())) as events:
            for _ in range(pieces):
                await anext(events)

    asyncio.run(run())
    assert model.closed == 1
    assert counter.call.outcome == outcome
    cost = counter.call.usage.cost
    assert cost == (PRICED.cost if outcome == "ok" else 0.000_034)
    assert counter.written() == (1, cost)


# --- budgets ----------------------------------------------------------------------------------


def test_a_call_no_budget_can_pay_is_never_sent(opened: Callable[..., Counter]) -> None:
    most = (ASKED * 1000 + 100 * 10_000) / 1e9  # the prompt, and all the model may write
    enough, short = opened(Budget(day=most)), opened(Budget(day=most - 1e-9))
    assert events_of(enough.metered(Scripted([HELLO])))
    model = Scripted([HELLO])
    with pytest.raises(BudgetError):
        events_of(short.metered(model))
    assert model.asked == 0
    assert short.told == []


@pytest.mark.parametrize(
    ("limit", "abilities", "reply"),
    [
        (7, ABILITIES, 7),
        (None, ABILITIES, 100),
        (None, Abilities(context_window=1000), 1000 - ASKED),
        (None, Abilities(context_window=5), 0),
    ],
)
def test_the_longest_reply_there_can_be_is_held(
    limit: int | None, abilities: Abilities, reply: int
) -> None:
    ledger = SlowLedger()
    ledger.reserved.set_result(Reservation("r", 1))
    model = Metered(Scripted([HELLO], abilities), PRICE, ledger, lambda _: None)
    events_of(model, request(max_tokens=limit))
    assert ledger.amounts == [ASKED * 1000 + reply * 10_000]


@dataclass
class SlowLedger:
    """Answers when the test says so; remembers what it was asked."""

    has_budgets: bool = True
    reserved: Future[Reservation] = field(default_factory=Future)
    settled: Future[None] = field(default_factory=Future)
    amounts: list[int] = field(default_factory=list)
    ended: list[object] = field(default_factory=list)
    released: list[object] = field(default_factory=list)

    def reserve_soon(self, model: str, caller: str, amount_nano: int) -> Future[Reservation]:
        self.amounts.append(amount_nano)
        return self.reserved

    def settle_soon(self, reservation: object, call: Called) -> Future[None]:
        self.ended.append(reservation)
        if not self.settled.done():
            self.settled.set_result(None)
        return self.settled

    def release_soon(self, reservation: object) -> Future[None]:
        self.released.append(reservation)
        return self.settled


@pytest.mark.parametrize("begun", [False, True], ids=["still waiting", "already asking"])
def test_who_is_cancelled_while_money_is_held_gets_none(begun: bool) -> None:
    ledger, model = SlowLedger(), Scripted([HELLO])
    if begun:
        ledger.reserved.set_running_or_notify_cancel()

    async def run() -> None:
        events = Metered(model, PRICE, ledger, lambda _: None).chat(request())
        task = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    if begun:
        ledger.reserved.set_result(Reservation("late", 1))
    assert ledger.released == ([Reservation("late", 1)] if begun else [])
    assert ledger.reserved.cancelled() is not begun
    assert (model.asked, ledger.ended) == (0, [])


def test_without_budgets_nothing_is_held(counter: Counter) -> None:
    ledger = SlowLedger(has_budgets=False)
    events_of(Metered(Scripted([HELLO]), PRICE, ledger, lambda _: None))
    assert (ledger.amounts, ledger.ended) == ([], [None])


def test_a_stream_ends_though_the_database_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag.chat.spend._SETTLE_SECONDS", 0.0)
    ledger = SlowLedger(has_budgets=False)
    ledger.settle_soon = lambda *_: Future()  # type: ignore[method-assign]
    assert len(events_of(Metered(Scripted([HELLO]), PRICE, ledger, lambda _: None))) == 2


def test_a_hundred_streams_share_a_budget(opened: Callable[..., Counter]) -> None:
    worst = (ASKED * 1000 + 100 * 10_000) / 1e9
    counter = opened(Budget(day=30 * worst))
    scripts: list[list[Step]] = [
        [HELLO, Delta(usage=Usage(14, 100))],
        [HELLO, STOP],
        [ModelBusyError("429")],
        [HELLO, ModelStreamError("cut")],
    ]

    async def one(number: int) -> str:
        try:
            async for _ in counter.metered(Scripted(scripts[number % 4])).chat(request()):
                pass
        except (BudgetError, ModelError) as error:
            return error.code
        return "ok"

    async def run() -> list[str]:
        return await asyncio.gather(*(one(n) for n in range(100)))

    codes = asyncio.run(run())
    sent = len(codes) - codes.count("budget")
    costs = [r.usage.cost for r in counter.told if isinstance(r, Called)]
    assert len(costs) == sent >= 30
    calls, cost = counter.written()
    assert calls == sent
    assert cost == pytest.approx(sum(c or 0.0 for c in costs), abs=1e-12)
    assert cost <= 30 * worst


# --- estimates --------------------------------------------------------------------------------


def test_all_that_is_sent_is_estimated() -> None:
    call = ToolCall("1", "look", "{}")
    tool = ToolSpec("look", "Finds a thing.", MappingProxyType({"type": "object"}))
    bare = prompt_tokens(request(Message("user", "你好")))
    assert bare == 4 + 2
    image = Image("image/png", b"")
    assert prompt_tokens(request(Message("user", "你好", (image, image)))) == bare + (
        2 * IMAGE_TOKENS
    )
    assert prompt_tokens(request(Message("assistant", "", (), (call,)))) == 4 + 1 + 1
    assert prompt_tokens(request(Message("user", "你好"), tools=(tool,))) > bare + 8
    schema = MappingProxyType({"type": "object"})
    assert prompt_tokens(request(Message("user", "你好"), schema=schema)) == bare + 5
