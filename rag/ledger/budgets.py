"""Whose money a call spends, in which periods, and how much of it there is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache

from rag.errors import BudgetError
from rag.ledger.money import NANO
from rag.specs import Budget

Key = tuple[str, str]
"""A period ("2026-05-01" or "2026-05") and a scope: whose spending is counted together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetUse:
    """How far a budget is used, in US dollars. `period` is "2026-05-01" or "2026-05", `reserved`
    what running calls hold beside `spent`, and `share` is `spent` of `limit`."""

    budget: str
    period: str
    limit: float
    spent: float
    reserved: float
    share: float


@dataclass(frozen=True, slots=True)
class Limit:
    """What one budget allows in one period."""

    label: str
    key: Key
    nano: int

    def used(self, spent: int, reserved: int) -> BudgetUse:
        return BudgetUse(
            budget=self.label,
            period=self.key[0],
            limit=self.nano / NANO,
            spent=spent / NANO,
            reserved=reserved / NANO,
            share=self.share(spent),
        )

    def share(self, spent: int) -> float:
        return spent / self.nano if self.nano else 1.0

    def refusal(self, spent: int, reserved: int, amount: int) -> BudgetError:
        period = self.key[0]
        return BudgetError(
            f"The budget of ${self.nano / NANO:g} for {self.label} in {period} does not allow this"
            f" call: ${spent / NANO:.4f} is spent, ${reserved / NANO:.4f} held for running calls,"
            f" and it may cost ${amount / NANO:.4f}; it starts anew on {_after(period)} at 00:00"
            " UTC.",
            "Wait until then, ask a cheaper or a local model, or raise the budget in rag.toml.",
        )


def limits_of(budgets: Iterable[Budget], model: str, caller: str, at: float) -> Iterator[Limit]:
    """What holds a call, once for each budget and period; `at` is when it began."""
    day, month = periods(at)
    for budget in budgets:
        if budget.caller not in (None, "*", caller) or budget.model not in (None, "*", model):
            continue
        who = None if budget.caller is None else caller
        which = None if budget.model is None else model
        named = (f"caller {who or 'without a name'}", who), (f"model {which}", which)
        label = " and ".join(text for text, name in named if name is not None) or "all calls"
        for period, dollars in ((day, budget.day), (month, budget.month)):
            if dollars is not None:
                nano = int(Decimal(str(dollars)) * NANO)
                yield Limit(label, (period, _scope(who, which)), nano)


def keys_of(model: str, caller: str, at: float) -> Iterator[Key]:
    """All that may count a call, whatever the budgets: they may change while money is spent."""
    for period in periods(at):
        for who in (None, caller):
            for which in (None, model):
                yield period, _scope(who, which)


def periods(at: float) -> tuple[str, str]:
    """The day and the month."""
    day = datetime.fromtimestamp(at, UTC).date().isoformat()
    return day, day[:7]


def days_of(period: str) -> tuple[str, str]:
    """The first day, and the last there can be."""
    return (f"{period}-01", f"{period}-31") if _is_month(period) else (period, period)


@lru_cache(1024)
def _scope(caller: str | None, model: str | None) -> str:
    return json.dumps([caller, model], ensure_ascii=False)


def caller_and_model(scope: str) -> tuple[str | None, str | None]:
    """Those whose calls the scope counts; None: all."""
    caller, model = json.loads(scope)
    return caller, model


def _after(period: str) -> date:
    if _is_month(period):
        return (date.fromisoformat(f"{period}-01") + timedelta(31)).replace(day=1)
    return date.fromisoformat(period) + timedelta(1)


def _is_month(period: str) -> bool:
    return len(period) == len("2026-05")
