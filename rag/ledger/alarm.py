"""Tells, once for each period, that a budget is nearly used."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping

from rag.ledger.budgets import Key, Limit
from rag.records import BudgetWarned, Listener

_log = logging.getLogger("rag")
_WARN_AT = 0.8


class Alarm:
    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._warned: set[Limit] = set()
        self._guard = threading.Lock()

    def look(self, limits: Iterable[Limit], spent: Mapping[Key, int]) -> None:
        for limit in limits:
            if limit.share(spent[limit.key]) >= _WARN_AT and self._is_first(limit):
                self._warn(limit, spent[limit.key])

    def _is_first(self, limit: Limit) -> bool:
        with self._guard:
            known = len(self._warned)
            self._warned.add(limit)
            return len(self._warned) > known

    def _warn(self, limit: Limit, spent: int) -> None:
        use = limit.used(spent, 0)
        told = "The budget of $%g for %s in %s is used to %.0f %%."
        _log.warning(told, use.limit, use.budget, use.period, 100 * use.share)
        self._listener(
            BudgetWarned(budget=use.budget, period=use.period, share=use.share, limit=use.limit)
        )
