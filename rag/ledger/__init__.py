"""What every model call cost, and the budgets that hold the spending, in the application database.

Money is in whole nano-dollars (10**9 to the US dollar), days and months are those of UTC. A call is
paid for in two steps: `reserve` holds the most it may cost, `settle` replaces that by what it did.
"""

from __future__ import annotations

from rag.ledger.budgets import BudgetUse
from rag.ledger.costs import CostRow, CostsBy
from rag.ledger.entries import Reservation
from rag.ledger.ledger import Ledger
from rag.ledger.money import nano_of

__all__ = ["BudgetUse", "CostRow", "CostsBy", "Ledger", "Reservation", "nano_of"]
