"""Holds money for calls, writes down what they cost, and tells of it.

Every change of a scope's money locks its row first, and rows are locked in order of their key.
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from datetime import date
from functools import partial
from typing import TYPE_CHECKING

from rag.application import ApplicationDatabase
from rag.ledger.alarm import Alarm
from rag.ledger.books import KEYS_AT_ONCE, Books, bound, row_of
from rag.ledger.budgets import BudgetUse, Key, Limit, days_of, keys_of, limits_of, periods
from rag.ledger.costs import CostRow, CostsBy, column_of, cost_rows
from rag.ledger.entries import Entry, Reservation
from rag.ledger.money import nano_of
from rag.ledger.writer import Writer
from rag.records import Called, Listener
from rag.specs import Budget

if TYPE_CHECKING:
    import sqlalchemy as sa

_MAX_BEGUN = 10_000


class Ledger:
    """Safe to call from several threads, and to share with other processes.

    A reservation counts for `lease` seconds and is then forgotten, because its process may have
    been killed. `listener` hears of a budget used to 80 %, once for each period, perhaps from
    another thread. Methods raise StoreError (BusyError if another process blocks the database)
    where nothing else is said.
    """

    def __init__(
        self,
        database: ApplicationDatabase,
        budgets: Sequence[Budget] = (),
        *,
        listener: Listener = lambda _: None,
        clock: Callable[[], float] = time.time,
        lease: float = 600.0,
    ) -> None:
        self._database = database
        self._part = database.part(Books)
        self._budgets = tuple(budgets)
        self._alarm = Alarm(listener)
        self._clock = clock
        self._lease = lease
        self._sweep_at = 0.0
        self._begun: set[Key] = set()
        self._writer = Writer(self._settle)

    @property
    def has_budgets(self) -> bool:
        return bool(self._budgets)

    # --- paying -------------------------------------------------------------------------------

    def reserve(self, model: str, caller: str, amount_nano: int) -> Reservation:
        """Holds the money for a call, or raises BudgetError if a budget would be passed.

        Without a budget that applies, or for a call that is free, nothing is asked or held.
        """
        now = self._clock()
        limits = list(limits_of(self._budgets, model, caller, now)) if amount_nano > 0 else []
        if not limits:
            return Reservation()
        keys = _keys(limits)
        reservation = Reservation(uuid.uuid4().hex, amount_nano)
        self._begin(keys)
        with self._part.writing() as connection:
            self._lock(connection, keys)
            spent, reserved = self._used(connection, keys)
            for limit in limits:
                used = spent[limit.key], reserved[limit.key]
                if sum(used) + amount_nano > limit.nano:
                    raise limit.refusal(*used, amount_nano)
            self._hold(connection, reservation, keys, now)
        self._alarm.look(limits, spent)
        return reservation

    def settle(self, reservation: Reservation | None, call: Called) -> None:
        """Writes the call down, and what it cost in place of what was held for it."""
        self._settle([Entry(reservation, call)])

    def reserve_soon(self, model: str, caller: str, amount_nano: int) -> Future[Reservation]:
        """`reserve` on the ledger's own thread. Who stops waiting owes a `release_soon`."""
        return self._writer.submit(partial(self.reserve, model, caller, amount_nano))

    def settle_soon(self, reservation: Reservation | None, call: Called) -> Future[None]:
        """`settle` on the ledger's own thread; all that wait are written at once. Never fails: an
        answer is not lost because its cost cannot be written, but the log has an error."""
        return self._writer.write(Entry(reservation, call))

    def release_soon(self, reservation: Reservation) -> Future[None]:
        """Gives back the money of a call that was never made."""
        return self._writer.write(Entry(reservation, None))

    def close(self) -> None:
        """Returns when all is written. The database stays open."""
        self._writer.close()

    # --- telling ------------------------------------------------------------------------------

    def costs(
        self, by: CostsBy, since: date | None = None, until: date | None = None
    ) -> list[CostRow]:
        """From day to day, both included; days in order, else the dearest first."""
        books = self._part.tables
        first, last = since or date.min, until or date.max
        days = books.calls.c.day.between(first.isoformat(), last.isoformat())
        with self._part.reading() as connection:
            rows = list(cost_rows(connection, books, column_of(books, by), days))
        return sorted(rows, key=lambda row: (0.0 if by == "day" else -row.cost, row.key))

    def session_cost(self, session_id: str) -> CostRow:
        """All zero for a session without calls."""
        books = self._part.tables
        session = column_of(books, "session")
        with self._part.reading() as connection:
            rows = list(cost_rows(connection, books, session, session == session_id))
        return rows[0] if rows else CostRow(key=session_id)

    def budgets_used(self) -> list[BudgetUse]:
        """Of this day and month, in the order of the settings. Of a budget that each caller or
        model has of its own, those who called a model this month."""
        if not self._budgets:
            return []
        with self._part.reading() as connection:
            limits = self._limits_now(connection)
            keys = _keys(limits)
            spent, reserved = self._used(connection, keys)
            for key in keys:
                if key not in spent:  # no call has asked for this budget yet
                    spent[key] = int(connection.execute(self._part.tables.so_far(key)).one()[2])
        return [limit.used(spent[limit.key], reserved[limit.key]) for limit in limits]

    # --- behind it ----------------------------------------------------------------------------

    def _limits_now(self, connection: sa.Connection) -> list[Limit]:
        now = self._clock()
        calls = self._part.tables.calls
        seen = calls.select().with_only_columns(calls.c.caller, calls.c.model).distinct()
        this_month = calls.c.day.between(*days_of(periods(now)[1]))
        pairs = sorted((row[0], row[1]) for row in connection.execute(seen.where(this_month)))
        limits: dict[Limit, None] = {}
        for budget in self._budgets:
            fixed = (budget.caller or "", budget.model or "")  # has a budget before its first call
            for caller, model in pairs if "*" in fixed else [fixed]:
                limits |= dict.fromkeys(limits_of([budget], model, caller, now))
        return list(limits)

    def _settle(self, entries: Sequence[Entry]) -> None:
        """All of them in one transaction."""
        calls = [entry.call for entry in entries if entry.call is not None]
        over = [{"held": held.id} for held, _ in entries if held is not None and held.id]
        costs: dict[Key, int] = defaultdict(int)
        limits: set[Limit] = set()
        for call in calls:
            who = call.model, call.request.context.caller, call.at
            limits |= set(limits_of(self._budgets, *who))
            for key in keys_of(*who):
                costs[key] += nano_of(call.usage.cost) or 0
        spending = [
            {"in_period": key[0], "by_scope": key[1], "nano": costs[key]}
            for key in sorted(costs)
            if costs[key]
        ]
        keys = _keys(limits)
        self._begin(keys)
        do = self._part.tables
        with self._part.writing() as connection:
            if spending:
                connection.execute(do.spend, spending)
            if calls:
                connection.execute(do.note, [row_of(call) for call in calls])
            if over:
                connection.execute(do.release, over)
            spent, _ = self._used(connection, keys)
        self._alarm.look(limits, spent)

    def _begin(self, keys: Iterable[Key]) -> None:
        """Each of `keys` has its row in `spent`, from now on."""
        new = sorted(set(keys) - self._begun)
        if not new:
            return
        with self._part.writing() as connection:
            for key in new:
                connection.execute(self._part.tables.begin(key, connection.dialect.name))
        if len(self._begun) > _MAX_BEGUN:
            self._begun.clear()
        self._begun.update(new)

    def _lock(self, connection: sa.Connection, keys: Sequence[Key]) -> None:
        if not self._database.has_one_writer:
            for some in _at_once(keys):
                connection.execute(self._part.tables.lock, bound(some))

    def _used(
        self, connection: sa.Connection, keys: Sequence[Key]
    ) -> tuple[dict[Key, int], dict[Key, int]]:
        """What is spent and what is held, by key, of those that have a row."""
        now = self._clock()
        spent: dict[Key, int] = defaultdict(int)
        reserved: dict[Key, int] = defaultdict(int)
        for some in _at_once(keys):
            looked_for = {**bound(some), "now": now}
            rows = connection.execute(self._part.tables.used, looked_for)
            for period, scope, settled, held in rows:
                spent[period, scope] = settled
                reserved[period, scope] = int(held)
        return spent, reserved

    def _hold(
        self, connection: sa.Connection, held: Reservation, keys: Sequence[Key], now: float
    ) -> None:
        row = {"id": held.id, "amount_nano": held.amount_nano, "expires_at": now + self._lease}
        rows = [{**row, "period": period, "scope": scope} for period, scope in keys]
        connection.execute(self._part.tables.hold, rows)
        if now >= self._sweep_at:
            connection.execute(self._part.tables.forget, {"now": now})
            self._sweep_at = now + self._lease


def _keys(limits: Iterable[Limit]) -> list[Key]:
    """In order, each once."""
    return sorted({limit.key for limit in limits})


def _at_once(keys: Sequence[Key]) -> Iterable[Sequence[Key]]:
    return (keys[n : n + KEYS_AT_ONCE] for n in range(0, len(keys), KEYS_AT_ONCE))
