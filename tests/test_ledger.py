"""Money is counted to the nano-dollar, and no budget is passed, whoever asks at once."""

from __future__ import annotations

import logging
import multiprocessing
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from rag.application import ApplicationDatabase
from rag.errors import BudgetError, BusyError
from rag.ledger import CostRow, Ledger, Reservation, nano_of
from rag.records import BudgetWarned, Called, Outcome, Record
from rag.specs import Budget
from rag.types import CallContext, ChatRequest, Usage

NANO = 1_000_000_000
LEASE = 600.0
CALLS = 100


def moment(day: int, hour: float = 12, month: int = 5) -> float:
    return datetime(2026, month, day, tzinfo=UTC).timestamp() + 3600 * hour


@dataclass
class Clock:
    now: float = moment(1)

    def __call__(self) -> float:
        return self.now


def called(
    cost: float | None = 0.0,
    *,
    at: float = moment(1),
    model: str = "m",
    caller: str = "alice",
    session: str = "s",
    outcome: Outcome = "ok",
    tokens: tuple[int, int] = (10, 5),
    estimated: bool = False,
) -> Called:
    context = CallContext(caller=caller, session_id=session, knowledge_base="default")
    return Called(
        at=at,
        model=model,
        outcome=outcome,
        code="model_busy" if outcome == "failed" else "",
        usage=Usage(*tokens, estimated=estimated, cost=cost),
        seconds=1.5,
        first_token=0.5,
        request=ChatRequest(messages=(), context=context),
        reply="",
    )


@dataclass
class House:
    """Opens ledgers on one database, and hears what they tell."""

    url: str
    clock: Clock = field(default_factory=Clock)
    heard: list[Record] = field(default_factory=list)
    opened: list[tuple[Ledger, ApplicationDatabase]] = field(default_factory=list)

    def open(self, *budgets: Budget, busy_seconds: float = 5.0) -> Ledger:
        database = ApplicationDatabase(self.url, busy_seconds=busy_seconds)
        ledger = Ledger(
            database, budgets, listener=self.heard.append, clock=self.clock, lease=LEASE
        )
        self.opened.append((ledger, database))
        return ledger

    def close(self) -> None:
        for ledger, database in self.opened:
            ledger.close()
            database.close()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "application.db"


@pytest.fixture
def house(database: Path) -> Iterator[House]:
    house = House(f"sqlite:///{database}")
    yield house
    house.close()


# --- costs ------------------------------------------------------------------------------------


def test_costs_are_told_by_day_model_caller_and_session(house: House) -> None:
    ledger = house.open()
    ledger.settle(None, called(0.25, at=moment(1), model="a", caller="x", session="one"))
    ledger.settle(None, called(0.5, at=moment(2), model="b", caller="x", session="two"))
    ledger.settle(None, called(None, at=moment(2), model="b", caller="y", session="two"))
    ledger.settle(
        None, called(0.125, at=moment(3), model="b", caller="y", session="two", estimated=True)
    )

    def row(key: str, calls: int, cost: float, estimated: int = 0, unknown: int = 0) -> CostRow:
        return CostRow(
            key=key,
            calls=calls,
            prompt_tokens=10 * calls,
            completion_tokens=5 * calls,
            estimated_calls=estimated,
            unknown_cost_calls=unknown,
            cost=cost,
        )

    assert ledger.costs("day") == [
        row("2026-05-01", 1, 0.25),
        row("2026-05-02", 2, 0.5, unknown=1),
        row("2026-05-03", 1, 0.125, estimated=1),
    ]
    assert ledger.costs("model") == [row("b", 3, 0.625, 1, 1), row("a", 1, 0.25)]
    assert ledger.costs("caller") == [row("x", 2, 0.75), row("y", 2, 0.125, 1, 1)]
    assert ledger.costs("session") == [row("two", 3, 0.625, 1, 1), row("one", 1, 0.25)]
    second = date(2026, 5, 2)
    assert ledger.costs("day", second, second) == [row("2026-05-02", 2, 0.5, unknown=1)]
    assert [r.key for r in ledger.costs("day", since=second)] == ["2026-05-02", "2026-05-03"]
    assert [r.key for r in ledger.costs("day", until=second)] == ["2026-05-01", "2026-05-02"]
    assert ledger.session_cost("one") == row("one", 1, 0.25)
    assert ledger.session_cost("none") == CostRow(key="none")


def test_failed_and_cancelled_tries_are_counted(house: House) -> None:
    ledger = house.open(Budget(day=1))
    ledger.settle(ledger.reserve("m", "alice", NANO // 2), called(0.25, outcome="failed"))
    ledger.settle(ledger.reserve("m", "alice", NANO // 2), called(0.25, outcome="cancelled"))
    assert ledger.costs("model")[0].cost == 0.5
    assert ledger.budgets_used()[0].spent == 0.5


@given(st.integers(0, 2_000_000 * NANO))
def test_dollars_and_nano_dollars_are_the_same_money(nano: int) -> None:
    assert nano_of(nano / NANO) == nano


def test_a_cost_that_is_not_known_stays_unknown() -> None:
    assert nano_of(None) is None


# --- budgets ----------------------------------------------------------------------------------


def test_without_budgets_nothing_is_asked_of_the_database(house: House, database: Path) -> None:
    assert house.open().reserve("m", "alice", NANO) == Reservation()
    assert house.open(Budget(caller="bob", day=0)).reserve("m", "alice", NANO) == Reservation()
    assert not database.exists()


def test_a_call_is_refused_before_it_passes_the_budget(house: House) -> None:
    ledger = house.open(Budget(day=1))
    held = ledger.reserve("m", "alice", NANO)
    with pytest.raises(BudgetError):
        ledger.reserve("m", "bob", 1)
    ledger.settle(held, called(0.999_999_999))
    ledger.settle(ledger.reserve("m", "bob", 1), called(0.000_000_001))
    with pytest.raises(BudgetError):
        ledger.reserve("m", "bob", 1)


def test_a_free_call_is_never_refused(house: House) -> None:
    assert house.open(Budget(day=0)).reserve("local", "alice", 0) == Reservation()


def test_the_error_says_which_budget_what_is_spent_and_when_it_starts_anew(house: House) -> None:
    ledger = house.open(Budget(caller="*", month=2))
    house.clock.now = moment(31, month=12)
    ledger.settle(None, called(1.5, at=house.clock.now))
    ledger.reserve("m", "alice", NANO // 4)
    with pytest.raises(BudgetError) as refused:
        ledger.reserve("m", "alice", NANO)
    assert refused.value.message == (
        "The budget of $2 for caller alice in 2026-12 does not allow this call: $1.5000 is spent,"
        " $0.2500 held for running calls, and it may cost $1.0000; it starts anew on 2027-01-01 at"
        " 00:00 UTC."
    )
    assert "rag.toml" in refused.value.hint


@pytest.mark.parametrize(
    ("budget", "refused"),
    [
        (Budget(day=1), {("m", "alice"), ("n", "alice"), ("m", "bob"), ("n", "bob")}),
        (Budget(caller="alice", day=1), {("m", "alice"), ("n", "alice")}),
        (Budget(caller="bob", day=1), set()),
        (Budget(caller="*", day=1), {("m", "alice"), ("n", "alice")}),
        (Budget(model="m", day=1), {("m", "alice"), ("m", "bob")}),
        (Budget(model="*", day=1), {("m", "alice"), ("m", "bob")}),
        (Budget(caller="*", model="*", day=1), {("m", "alice")}),
        (Budget(caller="*", model="n", day=1), set()),
    ],
)
def test_a_budget_holds_those_it_names(
    house: House, budget: Budget, refused: set[tuple[str, str]]
) -> None:
    ledger = house.open(budget)
    ledger.settle(None, called(1.0, model="m", caller="alice"))
    seen = set()
    for pair in (("m", "alice"), ("n", "alice"), ("m", "bob"), ("n", "bob")):
        try:
            ledger.reserve(*pair, 1)
        except BudgetError:
            seen.add(pair)
    assert seen == refused


def test_days_and_months_start_anew(house: House) -> None:
    ledger = house.open(Budget(day=1, month=2))
    for day in (30, 31):
        house.clock.now = moment(day, 23.99)
        ledger.settle(ledger.reserve("m", "alice", NANO), called(1.0, at=house.clock.now))
        with pytest.raises(BudgetError, match=f"2026-05-{day}"):
            ledger.reserve("m", "alice", 1)
    house.clock.now = moment(1, 0, month=6)
    ledger.reserve("m", "alice", NANO)


def test_what_was_held_before_midnight_is_paid_on_the_day_the_call_began(house: House) -> None:
    ledger = house.open(Budget(day=1))
    house.clock.now = moment(1, 23.999)
    held = ledger.reserve("m", "alice", NANO)
    house.clock.now = moment(2, 0.01)
    ledger.settle(held, called(1.0, at=moment(2, 0)))
    assert [(use.period, use.spent) for use in ledger.budgets_used()] == [("2026-05-02", 1.0)]
    with pytest.raises(BudgetError):
        ledger.reserve("m", "alice", 1)


def test_what_a_killed_process_held_is_free_again_after_the_lease(house: House) -> None:
    house.open(Budget(day=1)).reserve("m", "alice", NANO)
    other = house.open(Budget(day=1))
    house.clock.now += LEASE - 1
    with pytest.raises(BudgetError):
        other.reserve("m", "alice", 1)
    house.clock.now += 1
    assert other.budgets_used()[0].reserved == 0
    other.reserve("m", "alice", NANO)


def test_a_call_that_outlived_its_lease_is_paid_all_the_same(house: House) -> None:
    ledger = house.open(Budget(day=2))
    held = ledger.reserve("m", "alice", NANO)
    house.clock.now += 2 * LEASE
    ledger.reserve("m", "alice", 1)
    ledger.settle(held, called(1.0))
    assert ledger.budgets_used()[0].spent == 1.0


def test_money_of_a_call_never_made_is_given_back(house: House) -> None:
    ledger = house.open(Budget(day=1))
    ledger.release_soon(ledger.reserve("m", "alice", NANO)).result()
    ledger.reserve("m", "alice", NANO)
    assert ledger.costs("day") == []


def test_a_budget_set_in_mid_month_knows_the_month(house: House) -> None:
    house.open().settle(None, called(0.5, at=moment(1)))
    house.open(Budget(month=1)).settle(None, called(0.25, at=moment(2)))
    house.open().settle(None, called(0.25, at=moment(3)))
    house.open().settle(None, called(5.0, at=moment(3, month=4)))
    with pytest.raises(BudgetError):
        house.open(Budget(month=1)).reserve("m", "alice", 1)
    assert house.open(Budget(caller="*", month=4)).budgets_used()[0].spent == 1.0


def test_use_is_told_for_each_budget(house: House) -> None:
    ledger = house.open(Budget(day=2, month=0), Budget(caller="*", day=1), Budget(model="n", day=4))
    ledger.settle(None, called(0.5, caller=""))
    ledger.reserve("other", "bob", 0)
    uses = [(u.budget, u.period, u.limit, u.spent, u.share) for u in ledger.budgets_used()]
    assert uses == [
        ("all calls", "2026-05-01", 2.0, 0.5, 0.25),
        ("all calls", "2026-05", 0.0, 0.5, 1.0),
        ("caller without a name", "2026-05-01", 1.0, 0.5, 0.5),
        ("model n", "2026-05-01", 4.0, 0.0, 0.0),
    ]
    assert house.open().budgets_used() == []
    assert house.open(Budget(caller="*", model="none", day=1)).budgets_used() == []


def test_at_eighty_percent_there_is_one_warning_for_each_period(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = house.open(Budget(caller="*", day=1))
    for cost in (0.79, 0.01, 0.1):
        ledger.settle(None, called(cost))
    ledger.settle(None, called(0.7, caller="bob"))
    ledger.settle(None, called(0.8, at=moment(2)))
    warned = [
        BudgetWarned(budget="caller alice", period=f"2026-05-0{day}", share=0.8, limit=1.0)
        for day in (1, 2)
    ]
    assert house.heard == warned
    assert [r.levelname for r in caplog.records] == ["WARNING"] * 2
    assert "80 %" in caplog.records[0].getMessage()


# --- writing without waiting ------------------------------------------------------------------


def test_closing_writes_what_waits(house: House) -> None:
    ledger = house.open()
    for _ in range(50):
        ledger.settle_soon(None, called(0.01))
    ledger.close()
    assert house.open().costs("day")[0].calls == 50


def test_a_call_that_ends_after_the_ledger_closed_is_written_too(house: House) -> None:
    ledger = house.open()
    ledger.close()
    assert ledger.settle_soon(None, called(0.01)).done()
    assert house.open().costs("day")[0].calls == 1


def test_a_failing_database_is_logged_and_not_raised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    ledger = Ledger(ApplicationDatabase(f"sqlite:///{tmp_path / 'file' / 'application.db'}"))
    ledger.settle_soon(None, called(0.5)).result()
    ledger.close()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "cost=0.5" in record.getMessage()


def test_one_call_that_cannot_be_written_takes_no_other_along(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = house.open()
    started, go = threading.Event(), threading.Event()
    ledger._writer.submit(lambda: (started.set(), go.wait(10)))  # so that all three wait together
    assert started.wait(10)
    soon = [ledger.settle_soon(None, called(0.5, session=session)) for session in "a\udcffb"]
    go.set()
    for future in soon:
        future.result(10)
    assert [row.key for row in ledger.costs("session")] == ["a", "b"]
    assert [r.levelname for r in caplog.records] == ["WARNING", "ERROR"]


def test_another_process_in_the_way_is_said_so(house: House, database: Path) -> None:
    ledger = house.open(Budget(day=1), busy_seconds=0.01)
    ledger.settle(None, called(0.5))
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BusyError):
            ledger.reserve("m", "alice", 1)
        assert ledger.costs("day")[0].calls == 1  # readers do not wait


def test_looking_at_costs_before_the_first_call_makes_no_file(house: House, database: Path) -> None:
    ledger = house.open(Budget(day=1), Budget(caller="*", month=1))
    assert ledger.costs("day") == []
    assert ledger.session_cost("s") == CostRow(key="s")
    assert [(use.spent, use.reserved) for use in ledger.budgets_used()] == [(0, 0)]
    assert not database.exists()


# --- many at once -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Try:
    """`spent` of the `held` millionths are spent; a killed try settles nothing."""

    held: int
    spent: int
    ending: str


TRIES = st.lists(
    st.builds(
        lambda held, share, ending: Try(held, held * share // 100, ending),
        st.integers(1, 50_000),
        st.integers(0, 100),
        st.sampled_from(["ok", "ok", "failed", "cancelled", "never made", "killed"]),
    ),
    min_size=CALLS,
    max_size=CALLS,
)
LIMIT = 1_000_000  # nano-dollars


def play(ledger: Ledger, tries: list[Try], look: Callable[[], None]) -> tuple[int, int]:
    """All tries at once; what was spent and what the killed ones still hold.

    Every other try holds its money until each of those has tried to."""
    together = threading.Barrier(len(tries) // 2, timeout=30)

    def one(number: int, attempt: Try) -> tuple[int, int]:
        caller = "alice" if number % 4 < 2 else "bob"
        held: Reservation | None
        try:
            held = ledger.reserve("m", caller, attempt.held)
        except BudgetError:
            held = None
        look()
        if number % 2:
            together.wait()
        if held is None:
            return 0, 0
        if attempt.ending == "killed":
            return 0, attempt.held
        if attempt.ending == "never made":
            ledger.release_soon(held).result(30)
            return 0, 0
        outcome: Outcome = attempt.ending  # type: ignore[assignment]
        call = called(attempt.spent / NANO, caller=caller, outcome=outcome)
        if number % 3:
            ledger.settle(held, call)
        else:
            ledger.settle_soon(held, call).result(30)
        look()
        return attempt.spent, 0

    with ThreadPoolExecutor(len(tries)) as threads:
        results = list(threads.map(one, range(len(tries)), tries))
    return sum(spent for spent, _ in results), sum(held for _, held in results)


def budgets(limit: int = LIMIT) -> tuple[Budget, ...]:
    return Budget(day=limit / NANO, month=1), Budget(caller="*", day=limit * 6 // 10 / NANO)


IN_THE_BOOKS = """
    SELECT period, scope, settled_nano, COALESCE((
        SELECT SUM(amount_nano) FROM reservations r
        WHERE r.period = s.period AND r.scope = s.scope
    ), 0), (SELECT COALESCE(MIN(amount_nano), 0) FROM reservations)
    FROM spent s
"""


def check(rows: list[tuple[str, str, int, int, int]], limit: int = LIMIT) -> None:
    for period, scope, settled, reserved, least in rows:
        allowed = limit if scope == "[null, null]" else limit * 6 // 10
        if len(period) == 10:
            assert settled + reserved <= allowed, (period, scope)
        assert reserved >= 0
        assert settled >= 0
        assert least >= 0


@settings(max_examples=8, deadline=None, phases=[Phase.generate])  # threads cannot be shrunk
@given(TRIES, st.integers(10, 60))
def test_a_hundred_at_once_never_pass_a_budget(tries: list[Try], percent: int) -> None:
    limit = sum(attempt.held for attempt in tries) * percent // 100
    with TemporaryDirectory() as folder:
        path = Path(folder) / "application.db"
        clock = Clock()
        database = ApplicationDatabase(f"sqlite:///{path}")
        ledger = Ledger(database, budgets(limit), clock=clock)

        def look() -> None:
            with closing(sqlite3.connect(path)) as reader:
                check(reader.execute(IN_THE_BOOKS).fetchall(), limit)

        spent, held = play(ledger, tries, look)
        total = ledger.budgets_used()[0]
        assert nano_of(total.spent) == spent
        assert nano_of(total.reserved) == held
        assert nano_of(sum(row.cost for row in ledger.costs("day"))) == spent
        clock.now += LEASE
        assert ledger.budgets_used()[0].reserved == 0
        ledger.close()
        database.close()


def test_nobody_is_refused_while_there_is_money(house: House) -> None:
    ledger = house.open(Budget(day=CALLS / NANO))
    with ThreadPoolExecutor(CALLS) as threads:
        held = list(threads.map(lambda _: ledger.reserve("m", "alice", 1), range(CALLS)))
    assert len({reservation.id for reservation in held}) == CALLS
    with pytest.raises(BudgetError):
        ledger.reserve("m", "alice", 1)


@pytest.mark.slow
@pytest.mark.postgres
def test_a_hundred_at_once_never_pass_a_budget_on_postgresql(postgres_url: str) -> None:
    import psycopg
    import sqlalchemy as sa

    server = sa.make_url(postgres_url)
    with psycopg.connect(plain(server), autocommit=True) as connection:
        connection.execute("CREATE DATABASE ledger")
    url = server.set(database="ledger")
    house = House(url.render_as_string(hide_password=False))
    one, other = house.open(*budgets()), house.open(*budgets())
    tries = [Try(10_000 + 300 * n, 5_000 + 300 * n, ENDINGS[n % 5]) for n in range(CALLS)]

    def look() -> None:
        with psycopg.connect(plain(url)) as reader:
            check(reader.execute(IN_THE_BOOKS).fetchall())  # type: ignore[arg-type]

    with ThreadPoolExecutor(2) as pair:
        halves = pair.map(play, (one, other), (tries[::2], tries[1::2]), repeat(look))
        spent, held = (sum(numbers) for numbers in zip(*halves, strict=True))
    total = one.budgets_used()[0]
    assert 0.5 * LIMIT < spent + held <= LIMIT
    assert (nano_of(total.spent), nano_of(total.reserved)) == (spent, held)
    assert nano_of(other.costs("day")[0].cost) == spent
    house.clock.now += LEASE
    assert other.budgets_used()[0].reserved == 0
    house.close()


ENDINGS = ("ok", "failed", "cancelled", "never made", "killed")


def plain(url: object) -> str:
    return str(url).replace("+psycopg", "")


def spend_in_a_process(url: str, calls: int) -> int:
    """How many of the `calls` found money; each spends all it holds."""
    house = House(url)
    ledger = house.open(*budgets())
    found = 0
    for number in range(calls):
        try:
            held = ledger.reserve("m", "alice" if number % 2 else "bob", 10_000)
        except BudgetError:
            continue
        ledger.settle(held, called(0.000_01))
        found += 1
    house.close()
    return found


@pytest.mark.slow
def test_two_processes_share_one_budget(house: House) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as processes:
        found = list(processes.map(spend_in_a_process, [house.url] * 2, [80, 80]))
    assert sum(found) == LIMIT // 10_000
    assert nano_of(house.open(*budgets()).budgets_used()[0].spent) == LIMIT
